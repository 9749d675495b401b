"""Residual blocks and stages: found in any model, replaced, saved and refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import convswap
from convswap.errors import SurgeryError, UsageError
from convswap.surgery.blocks import find_blocks, find_stages
from convswap.surgery.inputs import Inputs
from convswap.surgery.selection import select_blocks
from convswap.units import BlockUnit, Place, register_unit
from convswap.units.contract import registry


class Halving(BlockUnit):
    """A block unit of the tests: one convolution."""

    def setup(self, *, depth: int = 1) -> None:
        self.depth = depth
        self.conv = nn.Conv2d(self.in_channels, self.out_channels, 3, self.stride, 1, **self.place)

    @classmethod
    def supports(cls, place: Place, **options: object) -> str | None:
        return "it wants an even number of channels" if place.out_channels % 2 else None

    @classmethod
    def options_at(cls, place: Place) -> dict[str, int]:
        return {"depth": place.depth}

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_UNITS", dict(registry._UNITS))
    row = {"paper": "none", "year": 2026, "summary": "a test", "warm_start": "none", "fusion": "none"}
    register_unit("halving", replaces="block", default_where="all", **row)(Halving)  # type: ignore[arg-type]
    kind = type("HalvingStage", (Halving,), {})
    register_unit("halving_stage", replaces="stage", default_where="all", **row)(kind)  # type: ignore[arg-type]


class Residual(nn.Module):
    def __init__(self, channels: int, out: int | None = None, stride: int = 1) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, out or channels, 3, stride, 1)
        self.b = nn.Conv2d(out or channels, out or channels, 3, 1, 1)
        self.adds = out is None and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x).relu())
        return y + x if self.adds else y


def image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def given(x: Tensor) -> Inputs:
    return Inputs((x,), {})


@pytest.mark.parametrize(
    ("name", "size", "blocks", "stages", "first"),
    [
        ("cifar_resnet20", 32, 9, 3, ("layer1.0", "16->16 block")),
        ("torchvision:resnet18", 64, 8, 4, ("layer1.0", "64->64 block")),
        ("torchvision:mobilenet_v3_small", 64, 11, 0, ("features.1", "16->16 block s2")),
        ("mobilenetv2_100", 64, 16, 6, ("blocks.1.0", "16->24 block s2")),
        ("regnetx_002", 64, 13, 4, ("s1.b1", "32->24 block s2")),
        ("ghostnet_050", 64, 16, 9, ("blocks.0.0", "8->8 block")),
        ("convnext_atto", 64, 12, 4, ("stages.0.blocks.0", "40->40 block")),
        ("densenet121", 64, 0, 0, None),
        ("torchvision:vgg11", 64, 0, 0, None),
    ],
)
def test_finds_the_blocks_of_real_networks(
    name: str, size: int, blocks: int, stages: int, first: tuple[str, str] | None
) -> None:
    model = convswap.create_model(name, num_classes=3)
    found = find_blocks(model, given(image(1, 3, size, size)))
    assert len(found) == blocks
    assert len(find_stages(model, given(image(1, 3, size, size)))) == stages
    if first is not None:
        assert (found[0].path, found[0].place.describe()) == first
    assert model.training


def test_a_block_that_changes_shape_counts_by_its_class() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Residual(4), Residual(4, 6, 2), Residual(6))
    found = find_blocks(model, given(image(1, 3, 9, 8)))
    assert [(s.path, s.place.stride, s.place.out_channels) for s in found] == [("1", 1, 4), ("2", 2, 6), ("3", 1, 6)]
    assert [s.path for s in select_blocks(found, "stage_start")] == ["1", "2"]
    assert [s.path for s in select_blocks(found, "same & !first")] == ["3"]
    assert [s.path for s in select_blocks(found, "strided, last")] == ["2", "3"]
    assert [s.path for s in select_blocks(found, lambda path, block: path != "1")] == ["2", "3"]
    with pytest.raises(UsageError, match="stage_start"):
        select_blocks(found, "stage_strat")


def test_a_module_that_only_adds_speaks_for_its_owner() -> None:
    class Add(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.add = nn.Conv2d(4, 4, 3, padding=1), Add()

        def forward(self, x: Tensor) -> Tensor:
            return self.add(self.conv(x), x)

    assert [site.path for site in find_blocks(nn.Sequential(Block(), Block()), given(image(1, 4, 5, 5)))] == [
        "0",
        "1",
    ]


def test_a_block_called_in_two_ways_is_no_place() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Residual(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.block(self.block(x))

    sites = find_blocks(Twice(), given(image(1, 4, 6, 6)))
    assert [site.path for site in sites] == ["block"], "the same shapes each time: one place"


def test_swap_keeps_mode_dtype_and_format() -> None:
    model = nn.Sequential(Residual(4), Residual(4)).double().to(memory_format=torch.channels_last).eval()
    swapped = convswap.swap(model, "halving", example_input=image(1, 4, 6, 6).double())
    for block in swapped:
        assert isinstance(block, Halving)
        assert not block.training
        assert block.conv.weight.dtype == torch.float64
        assert block.conv.weight.is_contiguous(memory_format=torch.channels_last)
        assert block.conv.weight.requires_grad
    assert isinstance(model[0], Residual), "the given model was changed"


def test_a_frozen_block_stays_since_its_unit_would_never_train() -> None:
    model = nn.Sequential(Residual(4), Residual(4)).eval()
    model[0].requires_grad_(False)
    plan = convswap.plan_swap(model, "halving", example_input=image(1, 4, 6, 6))
    assert [row.path for row in plan.replacements] == ["1"]
    assert [(skip.path, "it is frozen" in skip.reason) for skip in plan.skipped] == [("0", True)]
    swapped = plan.apply()
    assert isinstance(swapped[0], Residual)
    assert isinstance(swapped[1], Halving)


def test_one_block_at_two_paths_is_one_new_block() -> None:
    block = Residual(4)
    swapped = convswap.swap(nn.Sequential(block, nn.ReLU(), block), "halving", example_input=image(1, 4, 6, 6))
    assert swapped[0] is swapped[2]


def test_the_plan_counts_and_skips_with_reasons() -> None:
    model = nn.Sequential(Residual(4), Residual(4, 5, 2))
    plan = convswap.plan_swap(model, "halving", example_input=image(2, 4, 6, 6))
    (row,) = plan.replacements
    assert (row.path, row.start, row.geometry) == ("0", "none", "4->4 block")
    assert row.parameters_before == sum(p.numel() for p in model[0].parameters())
    assert row.parameters_after == 4 * 4 * 9 + 4
    assert row.macs_after == 4 * 4 * 9 * 36
    assert plan.skipped[0].reason == "it wants an even number of channels"
    assert "4->4 block" in str(plan)
    fresh = convswap.plan_swap(model, "halving", start="fresh", example_input=image(2, 4, 6, 6))
    assert fresh.replacements[0].start == "fresh"


def test_an_existing_block_unit_can_be_replaced_and_a_convolution_inside_it_is_its_own() -> None:
    model = convswap.swap(nn.Sequential(Residual(4)), "halving", example_input=image(1, 4, 6, 6))
    with pytest.raises(SurgeryError, match="already is a halving"):
        convswap.swap(model, "halving", example_input=image(1, 4, 6, 6))
    with pytest.raises(UsageError, match="matches nothing: the model has no 2-d convolution"):
        convswap.swap(model, "circle", where="all")


def test_refusals_name_what_is_missing() -> None:
    with pytest.raises(UsageError, match="pass example_input="):
        convswap.swap(nn.Sequential(Residual(4)), "halving")
    with pytest.raises(UsageError, match="no residual block"):
        convswap.swap(nn.Sequential(nn.Conv2d(4, 4, 3)), "halving", example_input=image(1, 4, 6, 6))
    with pytest.raises(UsageError, match="no stage"):
        convswap.swap(Residual(4), "halving_stage", example_input=image(1, 4, 6, 6))
    with pytest.raises(UsageError, match=r"matches none of the model's 1 blocks: 0"):
        convswap.swap(nn.Sequential(Residual(4)), "halving", where="9.*", example_input=image(1, 4, 6, 6))
    with pytest.raises(SurgeryError, match="does not accept the example input"):
        convswap.swap(nn.Sequential(Residual(4)), "halving", example_input=image(1, 3, 6, 6))


def test_tied_and_listed_blocks_stay() -> None:
    first, second = Residual(4), Residual(4)
    second.a.weight = first.a.weight
    with pytest.raises(SurgeryError, match="tied to another"):
        convswap.swap(nn.Sequential(first, second), "halving", example_input=image(1, 4, 6, 6))
    model = nn.Sequential(Residual(4))
    model.listed = [model[0]]  # type: ignore[assignment]
    with pytest.raises(SurgeryError, match="outside of the module tree"):
        convswap.swap(model, "halving", example_input=image(1, 4, 6, 6))


def test_a_stage_knows_its_depth_and_comes_back_from_disk(tmp_path: Path) -> None:
    model = convswap.create_model("cifar_resnet20", num_classes=4)
    swapped = convswap.swap(model, "halving_stage", where="!first", example_input=image(1, 3, 32, 32)).eval()
    assert [type(m).__name__ for m in (swapped.layer1, swapped.layer2)] == ["Sequential", "HalvingStage"]
    assert (swapped.layer2.depth, swapped.layer2.stride) == (3, 2)
    loaded = convswap.load(convswap.save(swapped, tmp_path / "m.safetensors"))
    torch.testing.assert_close(loaded(image(2, 3, 32, 32)), swapped(image(2, 3, 32, 32)), rtol=0, atol=0)


def test_an_optimizer_in_use_trains_the_new_block() -> None:
    model = nn.Sequential(Residual(4), nn.Conv2d(4, 4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    convswap.plan_swap(model, "halving", example_input=image(1, 4, 6, 6)).apply(inplace=True, optimizer=optimizer)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}


def test_a_row_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(UsageError, match="say what it replaces"):
        register_unit("odd", paper="none", year=2026, summary="s", warm_start="none", fusion="none")(Halving)


def test_a_gate_that_adds_pooled_vectors_is_no_block() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x * (self.mix(x.mean((2, 3), keepdim=True)) + self.mix(x.amax((2, 3), keepdim=True))).sigmoid()

    class Gated(Residual):
        def __init__(self) -> None:
            super().__init__(4)
            self.gate = Gate()

        def forward(self, x: Tensor) -> Tensor:
            return x + self.gate(self.b(self.a(x).relu()))

    found = find_blocks(nn.Sequential(Gated(), Gated()), given(image(1, 4, 6, 6)))
    assert [(site.path, type(site.module)) for site in found] == [("0", Gated), ("1", Gated)]


def test_a_sum_of_maps_with_channels_last_is_no_block() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(4, 4)

        def forward(self, x_NHWC: Tensor) -> Tensor:
            return x_NHWC + self.mix(x_NHWC)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.mixer = Residual(4), Mixer()

        def forward(self, x: Tensor) -> Tensor:
            return self.mixer(self.block(x).permute(0, 2, 3, 1))

    assert [site.path for site in find_blocks(Model(), given(image(1, 4, 6, 6)))] == ["block"]


def test_the_depth_of_a_stage_counts_blocks_alone() -> None:
    model = nn.Sequential(nn.Sequential(Residual(4), nn.Dropout(), Residual(4)), nn.ReLU())
    assert [(site.path, site.place.depth) for site in find_stages(model, given(image(1, 4, 6, 6)))] == [("0", 2)]


def test_weights_and_vectors_of_a_block_join_their_own_groups() -> None:
    model = nn.Sequential(nn.Sequential(Residual(4), nn.BatchNorm2d(4)))
    vectors = [p for p in model.parameters() if p.dim() == 1]
    weights = [p for p in model.parameters() if p.dim() > 1]
    optimizer = torch.optim.SGD([{"params": vectors}, {"params": weights, "weight_decay": 0.1}], lr=0.1)
    plan = convswap.plan_swap(model, "mgic", example_input=image(2, 4, 6, 6), coarse_channels=4)
    swapped = plan.apply(inplace=True, optimizer=optimizer)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {(p.dim() > 1, decay[id(p)]) for p in swapped.parameters()} == {(False, 0), (True, 0.1)}


def test_an_example_in_which_a_stride_cannot_be_seen_is_refused() -> None:
    model = nn.Sequential(Residual(4), Residual(4, 4, 2), Residual(4, 6, 2), Residual(6))
    assert [site.place.stride for site in find_blocks(model, given(image(1, 4, 3, 3)))] == [1, 2, 2, 1]
    with pytest.raises(UsageError, match="too small: 2 holds a strided convolution"):
        find_blocks(model, given(image(1, 4, 2, 2)))
