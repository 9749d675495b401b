"""Average pooling moved before 1x1 convolutions: only where the two commute, proven, and cheaper."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from networks import randomize
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import convswap
from convswap.errors import FusionError
from convswap.models import create_model
from convswap.surgery.pool_first import pool_before, why_not_pool_first


def multiply_adds(model: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops() // 2


def moved(plan: convswap.surgery.FusePlan) -> list[list[str]]:
    return [step[1:] for step in plan.steps if step[0] == "pool_first"]


@pytest.mark.parametrize("name", ["cifar_densenet_bc22_12", "densenet121", "torchvision:densenet121"])
def test_transitions_of_densenets(name, tmp_path) -> None:
    model = randomize(create_model(name, num_classes=3)).eval()
    x = torch.randn(1, 3, 64, 64)
    plan = convswap.plan_fuse(model, x)
    blocks = 2 if name.startswith("cifar") else 3
    paths = [f"features.transition{i}" for i in range(1, blocks + 1)]
    assert moved(plan) == [[f"{path}.conv", f"{path}.pool"] for path in paths]
    assert plan.difference < 1e-13
    assert f"average pooling moved before {blocks} 1x1 convolutions" in str(plan)
    fused = plan.apply()
    place = fused.get_submodule(paths[0])
    assert multiply_adds(place, x_at := torch.randn(1, place.conv.conv.in_channels, 16, 16)) * 4 == multiply_adds(
        model.get_submodule(paths[0]), x_at
    )
    convswap.save(fused, tmp_path / "fused.safetensors")
    assert torch.equal(convswap.load(tmp_path / "fused.safetensors")(x), fused(x))


def net(conv: nn.Module, pool: nn.Module, *between: nn.Module) -> nn.Sequential:
    return randomize(nn.Sequential(conv, *between, pool)).eval()


@given(
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 1),
    ceil_mode=st.booleans(),
    counts=st.booleans(),
    divisor=st.sampled_from([None, 3]),
    bias=st.booleans(),
    groups=st.sampled_from([1, 2]),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
)
def test_whatever_the_pooling_the_function_stays(
    kernel, stride, padding, ceil_mode, counts, divisor, bias, groups, size
) -> None:
    pool = nn.AvgPool2d(kernel, stride, min(padding, kernel // 2), ceil_mode, counts, divisor)
    conv = nn.Conv2d(4, 6, 1, bias=bias, groups=groups)
    model = nn.Sequential(conv, pool).double().eval()
    x = torch.randn(2, 4, *size, dtype=torch.double)
    with torch.no_grad():
        expected = model(x)
        if why_not_pool_first(conv, pool, biased=bias) is None:
            torch.testing.assert_close(pool_before(model, "0", "1")(x), expected, rtol=1e-12, atol=1e-12)
        elif stride > 1:
            assert bias, "without a bias any pooling commutes"
            assert not torch.allclose(conv(pool(x)), expected), "refused although it is exact"


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d(2, 2, ceil_mode=True),
        nn.AvgPool2d((1, 2)),
    ],
    ids=str,
)
def test_with_a_batch_norm_and_dropout_between(pool) -> None:
    model = net(nn.Conv2d(3, 4, 1), pool, nn.BatchNorm2d(4), nn.Dropout(0.5))
    plan = convswap.plan_fuse(model, torch.randn(2, 3, 9, 9))
    assert moved(plan) == [["0", "3"]]
    assert ["fold", "0", "1"] in plan.steps
    assert plan.difference < 1e-14


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: net(nn.Conv2d(3, 4, 1), nn.AvgPool2d(3, 2, 1)), "windows behind it do not average"),
        (lambda: net(nn.Conv2d(3, 4, 1), nn.AvgPool2d(2, divisor_override=3)), "windows behind it do not average"),
        (
            lambda: net(nn.Conv2d(3, 4, 1, bias=False), nn.AvgPool2d(3, 2, 1), nn.BatchNorm2d(4)),
            "windows behind it do not average",
        ),
        (lambda: net(nn.Conv2d(3, 4, 1, stride=2), nn.AvgPool2d(2)), "stride or padding"),
        (lambda: net(nn.Conv2d(3, 4, 1, padding=1), nn.AvgPool2d(2)), "stride or padding"),
        (lambda: net(nn.Conv2d(3, 4, 1), nn.AvgPool2d(3, 1)), "keeps the map's size"),
        (lambda: Functional(), "no nn.AvgPool2d module of its own"),
        (lambda: PooledTwice(), "no nn.AvgPool2d module of its own"),
    ],
)
def test_left_with_the_reason(model, reason) -> None:
    plan = convswap.plan_fuse(model(), torch.randn(2, 3, 12, 12))
    assert moved(plan) == []
    assert any(reason in why for _, why in plan.skipped), plan.skipped


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(x), 2)


class PooledTwice(Functional):
    """One pooling module behind two convolutions: an identity in its place would take both poolings out."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.next = nn.AvgPool2d(2), nn.Conv2d(4, 4, 1)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.next(self.pool(self.conv(x))))


class AlsoRead(PooledTwice):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.pool(y) + y.mean()


class AlwaysDrops(PooledTwice):
    def forward(self, x: Tensor) -> Tensor:
        return self.pool(F.dropout(self.conv(x), 0.0, training=True))


@pytest.mark.parametrize(
    "model",
    [
        lambda: net(nn.Conv2d(3, 4, 1), nn.AvgPool2d(2), nn.ReLU()),
        lambda: net(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2)),
        lambda: net(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2)),
        AlsoRead,
        AlwaysDrops,
    ],
)
def test_what_does_not_commute_is_not_touched(model) -> None:
    plan = convswap.plan_fuse(model(), torch.randn(2, 3, 12, 12))
    assert moved(plan) == []
    assert plan.difference < 1e-13


def test_hooks_keep_their_places() -> None:
    model, seen = net(nn.Conv2d(3, 4, 1), nn.AvgPool2d(2)), []
    model[1].register_forward_hook(lambda _, __, y: seen.append(y.shape))
    fused = convswap.fuse(model, torch.randn(2, 3, 12, 12))
    seen.clear()
    fused(torch.randn(2, 3, 12, 12))
    assert seen == [(2, 4, 6, 6)]
    model = net(nn.Conv2d(3, 4, 1), nn.AvgPool2d(2))
    model[0].register_forward_pre_hook(lambda _, args: (args[0].relu(),))
    assert moved(convswap.plan_fuse(model, torch.randn(2, 3, 12, 12))) == []


def test_a_network_that_reads_the_weight_of_the_convolution_is_left_alone() -> None:
    class Reads(PooledTwice):
        def forward(self, x: Tensor) -> Tensor:
            return self.pool(self.conv(x)).to(self.conv.weight.dtype)

    plan = convswap.plan_fuse(Reads(), torch.randn(2, 3, 12, 12))
    assert moved(plan) == []
    assert any("pooling first" in why for _, why in plan.skipped)


def test_a_part_that_can_be_read_where_the_whole_cannot() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = net(nn.Conv2d(3, 4, 1), nn.AvgPool2d(2), nn.BatchNorm2d(4))
            self.eval()

        def forward(self, x: Tensor) -> Tensor:
            return self.part(x) if float(x.sum()) > -1e9 else x

    plan = convswap.plan_fuse(Branching(), torch.randn(2, 3, 12, 12))
    assert moved(plan) == [["part.0", "part.2"]]
    assert plan.difference < 1e-13


def test_a_step_that_no_plan_would_write_is_refused() -> None:
    with pytest.raises(FusionError, match="0 cannot stand behind 1: it is not a 1x1 convolution"):
        pool_before(net(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2)), "0", "1")


def test_a_batch_norm_behind_dropout_folds() -> None:
    model = randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.BatchNorm2d(4))).eval()
    plan = convswap.plan_fuse(model, torch.randn(2, 3, 12, 12))
    assert plan.steps == (["fold", "0", "2"],)
