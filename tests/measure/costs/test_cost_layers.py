"""Layers beyond plain convolutions, by hand: recurrent ones, deformable convolution, resizing, gates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convswap.measure.costs.model import CostError, Counts, cost

STEPS, BATCH, INPUTS, HIDDEN = 5, 2, 8, 16


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.cell = kind(INPUTS, HIDDEN, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)[0]


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_recurrent_layers(kind: Any, gates: int) -> None:
    """Each gate: a matrix for the input, one for the state, at each step."""
    model, x = Recurrent(kind), torch.zeros(BATCH, STEPS, INPUTS)
    from_input, from_state = (STEPS * BATCH * gates * HIDDEN * n for n in (INPUTS, HIDDEN))
    assert cost(model, x, fused=False).counts.macs_float == from_input + from_state
    # Back: both weights' gradients; the state's gradient is asked for at all steps but the first, whose state is given.
    step = cost(model, x, mode="training").counts.macs_float
    assert step == 2 * (from_input + from_state) + from_state * (STEPS - 1) // STEPS


class Deformable(nn.Module):
    """torchvision's deformable 3x3 convolution from 16 to 32 channels, offsets by a convolution (and a mask)."""

    def __init__(self, masked: bool = False, groups: int = 1) -> None:
        super().__init__()
        ops = pytest.importorskip("torchvision.ops")
        self.offset = nn.Conv2d(16, 18, 3, padding=1)
        self.mask = nn.Conv2d(16, 9, 1, bias=False) if masked else None
        self.conv = ops.DeformConv2d(16, 32, 3, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x, self.offset(x), None if self.mask is None else self.mask(x))


def test_deformable_convolution() -> None:
    """18 offset maps (2,654,208 products) and the convolution itself (4,718,592), both 3x3 from 16 channels."""
    x = torch.zeros(1, 16, 32, 32)
    found = cost(Deformable(), x, fused=False)
    places = 32 * 32
    assert found.counts.macs_float == 2_654_208 + 4_718_592
    assert found.modules["conv"].macs_float == places * 32 * 16 * 9
    # Each of 16 channels is sampled at 9 places for each pixel, between four pixels; then both biases.
    assert found.counts.multiplications == 4 * places * 16 * 9
    assert found.counts.additions == 3 * places * 16 * 9 + places * (18 + 32)
    step = cost(Deformable(), x, mode="training", input_gradient=True).counts
    assert step.macs_float == 3 * found.counts.macs_float
    assert cost(Deformable(groups=4), x, fused=False).modules["conv"].macs_float == places * 32 * 4 * 9
    masked = cost(Deformable(masked=True), x, fused=False)
    assert masked.modules["conv"].multiplications == 5 * places * 16 * 9


X = torch.zeros(2, 4, 8, 8)
SIZE = 2 * 4 * 64


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        # Half of the channels gate the other half: a sigmoid and a product.
        (nn.GLU(1), Counts(additions=SIZE // 2, multiplications=SIZE // 2, special=SIZE, bitwise=SIZE // 2)),
        (nn.CELU(), Counts(additions=SIZE, multiplications=SIZE, comparisons=SIZE, special=SIZE)),
        (nn.LogSigmoid(), Counts(additions=SIZE, comparisons=SIZE, bitwise=SIZE, special=2 * SIZE)),
        # Four rows of four taps, then the four: 20 products and 15 sums, for four times the pixels.
        (nn.Upsample(scale_factor=2, mode="bicubic"), Counts(multiplications=80 * SIZE, additions=60 * SIZE)),
        (nn.Upsample(scale_factor=2, mode="bilinear"), Counts(multiplications=16 * SIZE, additions=12 * SIZE)),
    ],
)
def test_gates_and_resizing(function: Callable[[Tensor], Tensor], expected: Counts) -> None:
    module = nn.Sequential(function)  # type: ignore[arg-type]
    found = cost(module, X, fused=False).counts.as_dict()
    arithmetic = [name for name in found if name not in ("activations", "bytes_moved")]
    assert {name: found[name] for name in arithmetic} == {name: expected.as_dict()[name] for name in arithmetic}
    assert cost(module, X, mode="training", input_gradient=True).counts.macs == 0


@pytest.mark.parametrize(
    "module", [nn.AdaptiveMaxPool2d(2), nn.LocalResponseNorm(2), nn.AvgPool3d(2), nn.AvgPool2d(2), nn.MaxPool2d(2)]
)
def test_pooling_has_a_backward_cost(module: nn.Module) -> None:
    forward, step = (cost(module, X, mode=mode, input_gradient=True).counts for mode in ("inference", "training"))  # type: ignore[arg-type]
    assert step.additions > forward.additions


def test_what_torchvision_has_and_we_do_not_is_named() -> None:
    ops = pytest.importorskip("torchvision.ops")

    class Boxes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ops.roi_align(x, torch.tensor([[0, 0, 0, 4.0, 4.0]], device=x.device), 2)

    with pytest.raises(CostError, match=r"torchvision::roi_align in module '1' \(Boxes\) has no cost formula"):
        cost(nn.Sequential(nn.Conv2d(4, 4, 1), Boxes()), X)
