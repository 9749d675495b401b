"""Fusing networks of XNOR units: packed convolutions, BatchNorms folded on both sides, chains that hand on bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import convswap
from convswap.ops.binary_conv import PackedBinaryChain, PackedBinaryConv2d
from convswap.units import XnorConv2d

DOUBLE = torch.float64


def lived_in(model: nn.Module, image: torch.Tensor) -> nn.Module:
    """In eval mode, with statistics of a few batches and random scales, negative ones among them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.affine:
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator))
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator))
        for _ in range(3):
            model.train()(image + torch.randn(image.shape, generator=generator))
    return model.eval()


def block(*between: nn.Module, last: nn.Module | None = None) -> nn.Sequential:
    """Two units with something between them, and a first and a last layer."""
    torch.manual_seed(0)
    units = [XnorConv2d(8, 70, 3, padding=1), *between, XnorConv2d(70, 6, 3, padding=1)]
    return nn.Sequential(nn.Conv2d(3, 8, 3), *units, last or nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1))


IMAGE = torch.randn(4, 3, 9, 8, generator=torch.Generator().manual_seed(1))


class _Made(TorchDispatchMode):
    """The floating-point tensors of so many channels that operators make."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.operators = channels, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        numbers = isinstance(result, torch.Tensor) and result.is_floating_point() and result.dim() == 4
        if numbers and result.shape[1] == self.channels:
            self.operators.append(str(func))
        return result


@pytest.mark.parametrize(
    "between", [(), (nn.ReLU(),), (nn.Dropout(0.2), nn.ReLU(inplace=True), nn.Identity())], ids=len
)
def test_two_units_become_one_chain_that_writes_no_numbers_between(between):
    model = lived_in(block(*between), IMAGE)
    plan = convswap.plan_fuse(model, IMAGE)
    assert plan.count("chain") == 1
    assert plan.count("fold") == 1  # the BatchNorm behind the second unit
    assert plan.difference < 1e-12
    assert "joined 2 packed binary convolutions into 1 chains of bits" in str(plan)
    fused = plan.apply()
    assert isinstance(fused[1], PackedBinaryChain)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    with torch.no_grad(), _Made(70) as made:
        y = fused(IMAGE)
    assert not made.operators
    torch.testing.assert_close(y, model(IMAGE), rtol=1e-5, atol=1e-5)
    with torch.no_grad(), _Made(70) as made:
        model(IMAGE)
    assert made.operators  # the probe sees what is there


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("scale", ["positive", "negative", "zero"])
def test_every_sign_of_the_folded_scales_is_right(scale, batch):
    model = lived_in(block(nn.ReLU()), IMAGE).to(DOUBLE)
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.copy_({"positive": 1, "negative": -1, "zero": 0}[scale] * norm.weight.abs())
    fused = convswap.fuse(model, IMAGE.double())
    x = torch.randn(batch, 3, 9, 8, dtype=DOUBLE) * 2
    torch.testing.assert_close(fused(x), model(x), rtol=0, atol=1e-10)


class Functional(nn.Module):
    """A rectifier that is no module, or one module called twice, between the units."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.first, self.a, self.b = nn.Conv2d(3, 8, 3), XnorConv2d(8, 8, 3), XnorConv2d(8, 6, 3)
        self.last, self.act, self.shared = nn.Conv2d(6, 2, 1), nn.ReLU(), shared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(self.first(x))
        x = self.b(self.act(x) if self.shared else x.relu())
        return self.last(self.act(x))


class Read(nn.Module):
    """Something else reads what lies between the units."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b = nn.Conv2d(3, 8, 3), XnorConv2d(8, 8, 3, padding=1), XnorConv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(self.first(x))
        return self.last(self.b(x) + x)


@pytest.mark.parametrize(
    "model",
    [
        Functional(shared=False),
        Functional(shared=True),
        Read(),
        block(nn.MaxPool2d(2)),
        block(nn.Hardtanh()),
        block(nn.BatchNorm2d(70), nn.Hardtanh()),
    ],
    ids=["functional", "shared", "read", "pool", "other", "norm"],
)
def test_what_cannot_be_proven_is_not_joined(model):
    model = lived_in(model, IMAGE)
    plan = convswap.plan_fuse(model, IMAGE)
    assert plan.count("chain") == 0
    assert plan.count("unit") == 2
    assert plan.difference < 1e-12
    torch.testing.assert_close(plan.apply()(IMAGE), model(IMAGE), rtol=1e-5, atol=1e-5)


def test_the_map_k_and_several_bits_stay_apart():
    for options in ({"input_scale": "K"}, {"bits": 3}):
        torch.manual_seed(0)
        units = [XnorConv2d(8, 8, 3, **options), nn.ReLU(), XnorConv2d(8, 8, 3, **options)]
        model = lived_in(nn.Sequential(nn.Conv2d(3, 8, 3), *units), IMAGE)
        plan = convswap.plan_fuse(model, IMAGE)
        assert plan.count("chain") == 0
        assert plan.difference < 1e-12


def test_a_host_norm_between_two_units_goes_into_the_comparison():
    """Not all norms move: what stays behind a unit folds into its scale, and that into the next one's thresholds."""
    model = lived_in(block(nn.BatchNorm2d(70), nn.ReLU()), IMAGE)
    plan = convswap.plan_fuse(model, IMAGE)
    assert plan.count("chain") == 1
    assert plan.count("fold") == 2
    torch.testing.assert_close(plan.apply()(IMAGE), model(IMAGE), rtol=1e-5, atol=1e-5)


def plain(*between: nn.Module) -> nn.Sequential:
    """Two units that take the signs of what they are given."""
    torch.manual_seed(0)
    units = [XnorConv2d(8, 8, 3, order="host"), *between, XnorConv2d(8, 6, 3, order="host")]
    return nn.Sequential(nn.Conv2d(3, 8, 3), *units)


@pytest.mark.parametrize(
    ("model", "chains"),
    [
        (plain(), 1),
        (plain(nn.Hardtanh()), 1),
        (plain(nn.BatchNorm2d(8), nn.Hardtanh(inplace=True)), 1),
        (plain(nn.Hardtanh(-0.5, 0.0)), 1),
        (plain(nn.Hardtanh(0.0, 1.0)), 0),  # all signs become +1
        (plain(nn.Hardtanh(-2.0, -1.0)), 0),  # all become -1
        (plain(nn.ReLU6()), 0),
        (block(nn.Hardtanh()), 0),  # the second's threshold may lie beyond the limits
    ],
)
def test_clipping_does_not_change_signs(model, chains):
    model = lived_in(model, IMAGE)
    plan = convswap.plan_fuse(model, IMAGE)
    assert plan.count("chain") == chains
    assert plan.difference < 1e-12
    torch.testing.assert_close(plan.apply()(IMAGE), model(IMAGE), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("front", "folded"),
    [
        ([nn.BatchNorm2d(8)], True),
        ([nn.MaxPool2d(2), nn.BatchNorm2d(8), nn.Hardtanh(inplace=True), nn.Dropout()], True),
        ([nn.ReLU(), nn.BatchNorm2d(8)], True),
        ([nn.ReLU(), nn.BatchNorm2d(8), nn.ReLU()], False),
        ([nn.ReLU(), nn.BatchNorm2d(8), nn.Hardtanh(0.0, 1.0)], False),
        ([nn.ReLU(), nn.BatchNorm2d(8), nn.MaxPool2d(2)], False),
    ],
)
def test_a_host_norm_in_front_of_bare_signs_becomes_thresholds(front, folded):
    torch.manual_seed(0)
    unit = XnorConv2d(8, 6, 2, padding=1, order="host", padding_mode="reflect")
    model = lived_in(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *front, unit), IMAGE)
    plan = convswap.plan_fuse(model, IMAGE)
    assert plan.count("threshold") == folded
    assert plan.difference < 1e-12
    assert ("1 batch norms became thresholds" in str(plan)) == folded
    fused = plan.apply()
    assert any(isinstance(m, nn.BatchNorm2d) for m in fused.modules()) != folded
    assert not any(isinstance(m, nn.Hardtanh) for m in fused.modules()) or not folded
    torch.testing.assert_close(fused(IMAGE), model(IMAGE), rtol=1e-5, atol=1e-5)


def test_a_host_norm_that_something_else_reads_stays():
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.pool, self.norm = nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.BatchNorm2d(8)
            self.unit = XnorConv2d(8, 8, 1, order="host")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.pool(self.first(x)))
            return self.unit(x) + x

    plan = convswap.plan_fuse(lived_in(Forked(), IMAGE), IMAGE)
    assert plan.count("threshold") == 0
    assert plan.difference < 1e-12


def test_a_chain_of_many():
    torch.manual_seed(0)
    units = [part for _ in range(4) for part in (XnorConv2d(8, 8, 3, padding=1), nn.ReLU())]
    model = lived_in(nn.Sequential(nn.Conv2d(3, 8, 3), *units[:-1]), IMAGE)
    fused = convswap.fuse(model, IMAGE)
    assert isinstance(fused[1], PackedBinaryChain)
    assert len(fused[1].convs) == 4
    torch.testing.assert_close(fused(IMAGE), model(IMAGE), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """A swapped cifar_resnet8, its fused form, images."""
    torch.manual_seed(0)
    image = torch.randn(8, 3, 32, 32)
    model = convswap.swap(
        convswap.create_model("cifar_resnet8", num_classes=10), "xnor", start="fresh", example_input=image
    )
    model = lived_in(model, image)
    return model, convswap.fuse(model, image), image


def test_residual_blocks_become_chains(trained):
    model, fused, image = trained
    chains = [path for path, m in fused.named_modules() if isinstance(m, PackedBinaryChain)]
    assert chains == [f"layer{i}.0.conv1" for i in (1, 2, 3)]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    assert torch.equal(fused(image).argmax(1), model(image).argmax(1))


def test_a_fused_network_is_saved_as_bits_and_loaded_without_the_float_weights(trained, tmp_path: Path):
    model, fused, image = trained
    whole, packed = convswap.save(model, tmp_path / "whole"), convswap.save(fused, tmp_path / "packed")
    with safe_open(packed, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        history = json.loads(file.metadata()["convswap"])["history"]
    bits = [t for name, t in tensors.items() if name.endswith("weight_bits")]
    assert len(bits) == 6
    assert all(t.dtype == torch.int64 for t in bits)
    floats = sum(t.numel() for t in tensors.values() if t.is_floating_point())
    assert floats < 0.05 * sum(p.numel() for p in model.parameters())
    assert packed.stat().st_size * 8 < whole.stat().st_size
    assert history[-1]["steps"][-1][0] == "chain"
    assert torch.equal(convswap.load(packed)(image), fused(image))


def test_a_fused_network_compiles_and_exports(trained):
    _, fused, image = trained
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(image), fused(image))
    exported = torch.export.export(fused, (image,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
    torch.testing.assert_close(exported.module()(image[:3]), fused(image[:3]))


def test_packed_networks_are_a_tenth_in_memory():
    """58.24 M of the 62.42 M numbers of AlexNet are binary: 249.7 MB to 24.0 MB (first and last layer stay float)."""
    with torch.device("meta"):
        model = convswap.create_model("xnor_alexnet_relu", num_classes=1000)
    floats = sum(p.numel() for p in model.parameters())
    binary = sum(m.weight.numel() for m in model.modules() if isinstance(m, XnorConv2d))
    assert 4 * floats == pytest.approx(249.7e6, rel=1e-3)
    assert 4 * (floats - binary) + binary / 8 == pytest.approx(24.0e6, rel=1e-3)


def test_one_bit_a_weight_where_the_channels_fill_their_words():
    unit = XnorConv2d(128, 64, 3, bias=False)
    packed = unit.fuse()
    assert isinstance(packed, PackedBinaryConv2d)
    assert packed.weight_bits.numel() * 64 == unit.weight.numel()
