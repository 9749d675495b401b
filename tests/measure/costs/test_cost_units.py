"""Multiply-accumulates of every registered unit in its default form, worked out by hand, against what is counted.

All on 2 images of 8 x 8 pixels; the arithmetic below is that of the formulas in the papers, not of our modules. In a
training step every product has two more of its size, for the gradients of its two factors; a constant factor has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convswap.measure.costs.model import cost
from convswap.units import get_unit, list_units

IMAGES = 2
PIXELS = IMAGES * 8 * 8
CONV = PIXELS * 6 * 4 * 9  # 3x3 from 4 to 6 channels
RAYS = 6 * 4 * 9 * 9  # 24 kernels times a 9 x 9 matrix

K3 = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "padding": 1}
SAME = {"in_channels": 16, "out_channels": 16, "stride": 1}


@dataclass(frozen=True)
class Hand:
    """What a unit costs: products that are trained throughout, and products with a constant factor."""

    learned: int
    constant: int = 0
    training_only: int = 0
    binary_fused: bool = False

    @property
    def forward(self) -> int:
        return self.learned + self.constant

    @property
    def step(self) -> int:
        return 3 * self.learned + 2 * self.constant + self.training_only


def bottleneck(channels: int, group: int) -> int:
    """RegNetX: 1x1, grouped 3x3, 1x1."""
    return PIXELS * (channels * channels + channels * group * 9 + channels * channels)


def cmod() -> Hand:
    free = IMAGES * 4 * 4 * 40 * 3 * 49  # 64 - 24 channels, 7x7, stride 2
    luminance = PIXELS * 3
    # Windows of 30 taps every 4 pixels, 2 x 2 of them, which reach over 34 pixels: 3 rows of frequencies through both
    # trees down the columns, then for each row 6 complex packets (12 filters) along it, reading both trees.
    columns, rows = IMAGES * 2 * 34 * 6 * 30, IMAGES * 2 * 2 * 36 * 2 * 30
    mix = IMAGES * 2 * 2 * 36 * 48  # to real and imaginary parts of 24 channels
    return Hand(free + luminance + mix, constant=columns + rows)


def g_ghost() -> Hand:
    # Groups of 8, inside of 6: int(16 / 2 / 6) * 6 = 6 raw channels and 10 cheap ones.
    mix = IMAGES * ((16 + 6) * 10 + 10 * 10)
    return Hand(2 * bottleneck(16, 8) + bottleneck(6, 6) + PIXELS * 10 * 10 + mix)


def harmonic() -> Hand:
    # Orders 0 and 1, real and imaginary: 4 maps a channel; 8 channels between the convolutions.
    lift, cross = PIXELS * (4 * 8) * 16 * 25, PIXELS * (4 * 16) * (4 * 8) * 25
    # Kernels of 2 orders from 4 rings and 2 phases to (real, imaginary) x 25 taps, for 8 * 16 pairs of channels; then
    # 4 parts of each placed in the blocks (outputs x inputs) of the plain kernel.
    rings = 2 * (2 * (8 * 16) * (4 * 2) * (2 * 25))
    placed = 4 * 1 * 4 * (8 * 16 * 25) + 4 * 4 * 4 * (8 * 16 * 25)
    return Hand(lift + cross, constant=rings + placed)


def minimum(channels_in: int, channels_out: int, pixels_after: int) -> Hand:
    maps = 2 * channels_out
    return Hand(PIXELS * channels_in * maps + 2 * pixels_after * maps * 9 + pixels_after * maps * channels_out)


def pide() -> Hand:
    embeddings = 2 * PIXELS * 16 * 8
    outflow = PIXELS * 8  # the mean of phi with every theta
    pooled, spread = IMAGES * 16 * 16 * 8, PIXELS * 8 * 16  # 16 channels, 16 pooled pixels, 8 embedded
    return Hand(embeddings + outflow + 2 * (pooled + spread + PIXELS * 16 * 16))


HANDS: dict[str, tuple[dict[str, Any], Hand]] = {
    "conv": (K3, Hand(CONV)),
    "binary_weight": (K3, Hand(CONV)),
    "circle": (K3, Hand(CONV, constant=RAYS)),
    "circle_mix": (K3, Hand(CONV, constant=RAYS)),
    "circle_square": (K3, Hand(2 * CONV, constant=RAYS)),
    "cmod": ({"in_channels": 3, "out_channels": 64, "stride": 4}, cmod()),
    "dendritic": (K3, Hand(CONV)),
    "fixed": (K3 | {"out_channels": 4, "groups": 4}, Hand(0, constant=PIXELS * 4 * 9)),
    "g_ghost": (SAME | {"depth": 3}, g_ghost()),
    "ghost": (K3, Hand(PIXELS * 3 * 4 * 9 + PIXELS * 3 * 9)),
    "half_identity": (SAME, Hand(PIXELS * 8 * 9 + PIXELS * 16 * 8)),
    "hamiltonian": (SAME, Hand(4 * PIXELS * 8 * 8 * 9)),
    "harmonic": (SAME, harmonic()),
    # While training the sum is added by a product of (w', shift) and (s, 1) for 6 channels; its gradients: of s one
    # number a channel, of the factors a product again.
    "ic": (K3, Hand(CONV, training_only=PIXELS * 6 * 2 + PIXELS * 6 + PIXELS * 6 * 2)),
    # Two levels: 16 channels, one group of 16; 8 channels, dense. Two 3x3 convolutions on each, 1x1 down and up.
    "mgic": (SAME, Hand(2 * PIXELS * 16 * 16 * 9 + 2 * PIXELS * 8 * 8 * 9 + 2 * PIXELS * 16 * 8)),
    "minimum": (K3 | {"stride": 2}, minimum(4, 6, IMAGES * 4 * 4)),
    "minimum_block": (SAME, minimum(16, 16, PIXELS)),
    # In evaluation the spectrum is there already. While training: two MLPs 2-8-4 at 8 x 5 frequencies and their
    # mirrors, whose inputs are constant, then 4 to 4 maps at 8 x 5.
    "niff": (K3, Hand(PIXELS * 4 * 6, training_only=2 * (2 * 80 * 2 * 8 + 3 * 80 * 8 * 4 + 3 * 40 * 4 * 4))),
    "pide": (SAME, pide()),
    "quantized": (K3, Hand(CONV, binary_fused=True)),
    "quantized_stochastic": (K3, Hand(CONV, binary_fused=True)),
    "sk": (K3, Hand(2 * CONV + IMAGES * (6 * 32 + 32 * 12))),  # d = max(6 / 16, 32)
    "vgnet_downsampling": (
        {"in_channels": 16, "out_channels": 32, "stride": 2},
        Hand(IMAGES * 4 * 4 * 16 * 16, constant=IMAGES * 4 * 4 * 16 * 9),
    ),
    "xnor": (K3, Hand(CONV, binary_fused=True)),
}


def build(name: str) -> tuple[nn.Module, Tensor, Hand]:
    geometry, hand = HANDS[name]
    torch.manual_seed(0)
    return get_unit(name).cls(**geometry), torch.randn(IMAGES, geometry["in_channels"], 8, 8), hand


def test_every_registered_unit_is_in_the_table() -> None:
    assert sorted(HANDS) == list_units()


@pytest.mark.parametrize("name", list(HANDS))
def test_forward_and_training_step_by_hand(name: str) -> None:
    unit, x, hand = build(name)
    forward = cost(unit, x, fused=False).counts
    assert (forward.macs_float, forward.macs_int8, forward.macs_binary) == (hand.forward, 0, 0)
    step = cost(unit, x, mode="training", input_gradient=True).counts
    assert (step.macs_float, step.macs_int8, step.macs_binary) == (hand.step, 0, 0)


@pytest.mark.parametrize("name", [name for name, (_, hand) in HANDS.items() if hand.binary_fused])
def test_binary_units_are_binary_once_fused(name: str) -> None:
    unit, x, hand = build(name)
    fused = cost(unit, x).fused
    assert fused is not None
    assert (fused.counts.macs_float, fused.counts.macs_binary) == (0, hand.forward)
    # 6 x 9 words of 64 bits hold the weights of 4 input channels; then scales, biases (float32).
    assert fused.parameters.bits >= 6 * 9 * 64
    assert fused.parameters.trainable == 0


@pytest.mark.parametrize("name", ["circle", "circle_mix", "circle_square"])
def test_weight_units_are_plain_convolutions_once_fused(name: str) -> None:
    unit, x, _ = build(name)
    fused = cost(unit, x).fused
    assert fused is not None
    assert fused.counts == cost(nn.Conv2d(**K3), x, fused=False).counts
    assert fused.parameters.total == 6 * 4 * 9 + 6


def test_a_dendritic_unit_adds_and_compares_for_every_input_pixel_and_pair() -> None:
    unit, x, _ = build("dendritic")
    found = cost(unit, x, fused=False).counts
    pairs = PIXELS * 6 * 4
    assert found.comparisons == pairs
    assert found.additions == pairs + PIXELS * 6  # and the bias


def test_transforms_of_niff_by_hand() -> None:
    unit, x, _ = build("niff")
    one = 5 * 64 * 6 // 2  # 5 N log2 N, half of it as the maps are real
    found = cost(unit, x, fused=False)
    assert found.counts.fft == 2 * IMAGES * 4 * one
    assert found.fused is None
    step = cost(unit, x, mode="training", input_gradient=True).counts
    assert step.fft == 2 * found.counts.fft


# Comparisons of a forward pass, where what a unit compares is what it is about: rectifiers and minima.
COMPARED: dict[str, int] = {
    "conv": 0,
    "ghost": 0,  # by itself it has no rectifier
    "half_identity": PIXELS * 8,  # only the half of the channels that is computed is rectified
    "hamiltonian": 2 * PIXELS * 8,  # K' relu(K y) for each half of the channels
    "minimum": PIXELS * 12 + 2 * IMAGES * 4 * 4 * 12,  # relu(u); the minimum of two maps, then one relu for both
    "vgnet_downsampling": IMAGES * 4 * 4 * 16,  # half of 32 outputs are the smoothed input
}
# Parameters: weights, biases, two for each map of a BatchNorm.
HELD: dict[str, int] = {
    "conv": 6 * 4 * 9 + 6,
    "binary_weight": 6 * 4 * 9 + 6,
    "circle": 6 * 4 * 9 + 6,
    "circle_square": 2 * 6 * 4 * 9 + 2 * 2 * 6,
    "dendritic": 6 * 4 * 9 + 6 * 4 + 6,  # and one bias for each pair of maps
    "ghost": 3 * 4 * 9 + 2 * 3 + 3 * 9 + 2 * 3,
    "half_identity": 8 * 9 + 8 * 16 + 2 * 8,
    "hamiltonian": 2 * (8 * 8 * 9 + 8 + 2 * 8),  # K with a bias and a BatchNorm, for each half
    "minimum": 12 * 4 + 2 * 12 + 2 * 12 * 9 + 6 * 12 + 6,
    "vgnet_downsampling": 16 * 16 + 2 * 16,  # the Gaussian is constant
}


@pytest.mark.parametrize("name", COMPARED)
def test_comparisons_by_hand(name: str) -> None:
    unit, x, _ = build(name)
    assert cost(unit, x, fused=False).counts.comparisons == COMPARED[name]


@pytest.mark.parametrize("name", HELD)
def test_parameters_by_hand(name: str) -> None:
    unit, x, _ = build(name)
    assert cost(unit, x, fused=False).parameters.total == HELD[name]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("input_scale", ["none", "K"])
@pytest.mark.parametrize("relu", [False, True])
def test_a_packed_convolution_by_hand(bias: bool, input_scale: str, relu: bool) -> None:
    """For each number written: the scale, K's factor, the bias and the rectifier; the products are binary."""
    from convswap.ops.binary_conv import PackedBinaryConv2d

    def counts(**options: Any) -> Any:
        conv = PackedBinaryConv2d(64, 8, 3, padding=1, **options)
        return cost(conv, torch.randn(2, 64, 6, 6), fused=False).operators["convswap::binary_conv2d"]

    found, written = counts(bias=bias, input_scale=input_scale, relu=relu), 2 * 8 * 36
    assert (found.macs_float, found.macs_int8, found.macs_binary) == (0, 0, written * 64 * 9)
    assert found.multiplications == written * (2 if input_scale == "K" else 1)
    assert found.additions == (written if bias else 0)
    assert found.comparisons == (written if relu else 0)
