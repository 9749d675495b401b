"""The harmonic block: its steps, its invariance, its fused form, and a network of it that learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import convswap
from convswap.data import load_data
from convswap.models import create_model
from convswap.units import (
    ComplexBatchNorm,
    ComplexReLU,
    FusedHarmonicBlock,
    HarmonicBlock,
    HarmonicMeanPool,
    MagnitudeAffine,
    magnitude_sum,
    with_marks,
)

DOUBLE = {"dtype": torch.float64}
OPTIONS = [
    {},
    {"max_order": 2, "zero_order_phase": "code"},
    {"kernel_size": 3, "rings": 2, "phase": False},
    {"basis": "sum", "max_order": 0, "kernel_size": 3},
    {"residual": False},
]
each_form = pytest.mark.parametrize("options", OPTIONS, ids=str)


def randomised(block: HarmonicBlock) -> HarmonicBlock:
    """Every parameter and statistic away from its start; evaluation."""
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        block.norm.norm.running_mean.uniform_(0.5, 1)
        block.norm.norm.running_var.uniform_(0.5, 2)
    return block.eval()


@each_form
@pytest.mark.parametrize("size", [8, 9, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@torch.no_grad()
def test_quarter_turns_of_the_input_turn_the_output(options, size, stride):
    torch.manual_seed(0)
    block = randomised(HarmonicBlock(3, 4, stride, **options, **DOUBLE))
    x = torch.randn(2, 3, size, size, **DOUBLE)
    for module in (block, block.fuse()):
        y = module(x)
        assert float(y.std()) > 1e-2
        for k in (1, 2, 3):
            difference = module(torch.rot90(x, k, (2, 3))) - torch.rot90(y, k, (2, 3))
            assert float(difference.abs().max() / y.abs().max()) < 1e-9


@each_form
@torch.no_grad()
def test_is_the_layers_one_after_another_and_fuses_exactly(options):
    torch.manual_seed(1)
    block = randomised(HarmonicBlock(3, 4, 2, **options, **DOUBLE))
    highest = options.get("max_order", 1)
    x = torch.randn(2, 3, 9, 8, **DOUBLE)
    pooled = HarmonicMeanPool(2)(x)
    act, norm = ComplexReLU(2, highest, **DOUBLE), ComplexBatchNorm(4, highest, **DOUBLE).eval()
    act.load_state_dict(block.act.state_dict())
    norm.load_state_dict(block.norm.state_dict())
    lifted, crossed = block.lift.fuse(), block.cross.fuse()
    expected = magnitude_sum(norm(crossed(act(lifted(pooled)))), highest)
    if options.get("residual", True):
        expected[:, :3] += pooled
    fused = block.fuse()
    assert isinstance(fused, FusedHarmonicBlock)
    assert {type(m) for m in fused.modules() if isinstance(m, nn.Conv2d)} == {nn.Conv2d}
    assert any(isinstance(m, MagnitudeAffine) for m in fused.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)  # the floor of the magnitudes
    torch.testing.assert_close(fused(x), block(x), rtol=0, atol=1e-11)


def test_parameters_are_the_formula():
    for incoming, out, highest, width in ((16, 16, 1, 0.5), (16, 32, 2, 1.0), (3, 8, 0, 0.25)):
        block = HarmonicBlock(incoming, out, max_order=highest, width=width, device="meta")
        h = round(width * out)
        expected = (highest + 1) * (5 * h * (incoming + out) + h + 2 * out)
        assert sum(p.numel() for p in block.parameters()) == expected


def test_fewer_channels_out_go_through_a_pointwise_shortcut():
    block = HarmonicBlock(8, 4, **DOUBLE).eval()
    assert block.shortcut.weight.shape == (4, 8, 1, 1)
    x = torch.randn(1, 8, 5, 5, **DOUBLE)
    bare = HarmonicBlock(8, 4, residual=False, **DOUBLE).eval()
    assert bare.shortcut is None
    theirs = {key: value for key, value in block.state_dict().items() if "shortcut" not in key}
    bare.load_state_dict(with_marks(bare, theirs))
    torch.testing.assert_close(block(x), bare(x) + block.shortcut(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "value"),
    [("width", 0), ("width", float("nan")), ("width", True), ("residual", 1.5), ("max_order", -1), ("rings", 0)],
)
def test_bad_options_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        HarmonicBlock(4, 4, **{name: value})


def _turn_error(model: nn.Module, x: Tensor, k: int) -> float:
    before, after = model(x), model(torch.rot90(x, k, (2, 3)))
    return float((after - before).norm() / before.norm())


@torch.no_grad()
def test_a_network_with_an_equivariant_stem_has_invariant_logits():
    """Every residual block of a ResNet swapped; with a stem of one pixel nothing else has a direction."""
    torch.manual_seed(0)
    host = create_model("cifar_resnet20", num_classes=5)
    host.conv1 = nn.Conv2d(3, 16, 1, bias=False)
    model = convswap.swap(host, "harmonic", example_input=torch.zeros(1, 3, 16, 16), width=0.25, kernel_size=3)
    model, x = model.double().eval(), torch.randn(2, 3, 16, 16, **DOUBLE)
    plain = create_model("cifar_resnet20", num_classes=5).double().eval()
    for k in (1, 2, 3):
        assert _turn_error(model, x, k) < 1e-9
        assert _turn_error(plain, x, k) > 1e-3


def test_a_swapped_network_learns():
    """Nine blocks in a row are trainable."""
    torch.manual_seed(0)
    data = load_data("digits")
    images, labels = data.train.images[:200].float() / 255, data.train.labels[:200]
    images = (images - images.mean()) / images.std()
    host = create_model("cifar_resnet20", num_classes=10, in_channels=1)
    model = convswap.swap(host, "harmonic", example_input=images[:1], width=0.25, kernel_size=3, start="fresh")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    losses = []
    for _ in range(16):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 1.8 < math.log(10)
