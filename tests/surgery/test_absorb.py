"""A unit that brings its own BatchNorm or ReLU takes over the host's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convswap
from convswap.surgery.inputs import Inputs
from convswap.surgery.neighbours import read_neighbourhood
from convswap.train.parameters import parameter_groups
from convswap.units import FeatureUnit, register_unit
from convswap.units.contract import registry


class Own(FeatureUnit):
    """A convolution between a ReLU and a BatchNorm of its own."""

    absorbs_batch_norm = True
    absorbs_relu_before = True
    relu_follows_host = True

    def setup(self, *, relu: bool = False) -> None:
        self.relu, self.bias = relu, None
        self.conv = nn.Conv2d(**self.geometry.arguments() | {"bias": False}, **self.place)
        self.norm = nn.BatchNorm2d(self.out_channels, **self.place)

    @property
    def weight(self) -> Tensor:
        return self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x.relu()))
        return y.relu() if self.relu else y


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_UNITS", dict(registry._UNITS))
    register_unit(
        "own",
        paper="none",
        year=2026,
        summary="a test",
        warm_start="approximate",
        fusion="none",
        default_where="all",
    )(Own)


class Block(nn.Module):
    """conv - norm - relu - conv - norm, added to its input, relu."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.n1, self.r1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
        self.c2, self.n2, self.r2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.n2(self.c2(self.r1(self.n1(self.c1(x)))))
        return self.r2(x + y)


X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def test_reads_what_stands_beside() -> None:
    around = read_neighbourhood(nn.Sequential(Block(), Block()), Inputs((X,), {}))
    first = around.of["0.c1"]
    assert (first.batch_norm, first.relu_follows, first.rectified, first.relu_module) == ("0.n1", True, False, None)
    second = around.of["0.c2"]
    assert (second.batch_norm, second.relu_follows, second.relu_module) == ("0.n2", False, "0.r1")
    assert around.of["1.c1"].relu_module == "0.r2"
    # r2 also feeds the shortcut
    assert around.removable_relus(around.of) == ["0.r1", "1.r1"]
    assert around.removable_relus(["0.c1"]) == []


def test_a_swap_takes_them_over_and_counts_them() -> None:
    model = nn.Sequential(Block(), Block())
    plan = convswap.plan_swap(model, "own", example_input=X)
    assert plan.replacements[0].absorbed == ("0.n1",)
    assert plan.replacements[1].absorbed == ("0.n2", "0.r1")
    assert [r.site_options for r in plan.replacements] == [{"relu": True}, {"relu": False}] * 2
    assert plan.replacements[0].parameters_before == 4 * 4 * 9 + 8
    # the inputs of all but the very first are rectified: there the start is as good as exact
    assert [r.start for r in plan.replacements] == ["approximate", "exact", "exact", "exact"]
    assert "absorbed: 6 modules" in str(plan)
    swapped = plan.apply()
    assert type(swapped[0].n1) is nn.Identity
    assert type(swapped[0].r1) is nn.Identity
    assert type(swapped[0].r2) is nn.ReLU
    assert (swapped[0].c1.relu, swapped[0].c2.relu) == (True, False)
    assert type(model[0].n1) is nn.BatchNorm2d


def test_a_given_option_wins() -> None:
    plan = convswap.plan_swap(nn.Sequential(Block()), "own", example_input=X, relu=False)
    assert [r.site_options for r in plan.replacements] == [{}, {}]
    assert [m.relu for m in plan.apply().modules() if isinstance(m, Own)] == [False, False]


def test_what_something_else_reads_stays() -> None:
    class Peeks(Block):
        def forward(self, x: Tensor) -> Tensor:
            seen = self.c1(x)
            return self.c2(self.r1(self.n1(seen))) + seen

    plan = convswap.plan_swap(nn.Sequential(Peeks()), "own", where="0.c1", example_input=X)
    assert plan.replacements[0].absorbed == ()
    only_second = convswap.plan_swap(nn.Sequential(Block()), "own", where="0.c2", example_input=X)
    assert only_second.replacements[0].absorbed == ("0.n2", "0.r1")


def test_without_a_graph_the_host_keeps_its_own_and_the_plan_says_so() -> None:
    class Branches(Block):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else super().forward(-x)

    plan = convswap.plan_swap(nn.Sequential(Branches()), "own", example_input=X)
    assert all(r.absorbed == () for r in plan.replacements)
    assert "stay beside the units" in str(plan)
    blind = convswap.plan_swap(nn.Sequential(Block()), "own")
    assert "no example input is known" in blind.notes[0]


def test_the_optimizer_forgets_what_was_taken_out() -> None:
    model = nn.Sequential(Block())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    convswap.plan_swap(model, "own", example_input=X).apply(inplace=True, optimizer=optimizer)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}


def test_timm_norms_with_an_activation_leave_the_activation() -> None:
    model = convswap.create_model("regnetx_002", num_classes=3)
    swapped = convswap.swap(model, "own", where="s1.b1.conv1.conv", example_input=torch.randn(1, 3, 64, 64))
    assert type(swapped.s1.b1.conv1.bn) is nn.ReLU
    assert swapped.s1.b1.conv1.conv.relu is True


def test_comes_back_from_disk(tmp_path: Path) -> None:
    model = convswap.create_model("cifar_resnet8", num_classes=3)
    swapped = convswap.swap(model, "own", example_input=torch.randn(1, 3, 32, 32)).eval()
    loaded = convswap.load(convswap.save(swapped, tmp_path / "m.safetensors"))
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(loaded(x), swapped(x), rtol=0, atol=0)
    assert type(loaded.bn1) is nn.Identity


def test_a_unit_that_is_one_convolution_is_read_like_one() -> None:
    model = convswap.swap(nn.Sequential(Block(), Block()), "circle", where="all")
    plan = convswap.plan_swap(model, "own", example_input=X)
    assert [r.absorbed for r in plan.replacements[:2]] == [("0.n1",), ("0.n2", "0.r1")]
    assert [r.site_options for r in plan.replacements] == [{"relu": True}, {"relu": False}] * 2


def test_a_norm_of_the_unit_joins_the_group_of_the_one_it_takes_over() -> None:
    model = nn.Sequential(Block())
    groups = parameter_groups(model, 0.1)
    optimizer = torch.optim.SGD(groups, lr=0.1)
    swapped = convswap.plan_swap(model, "own", example_input=X).apply(inplace=True, optimizer=optimizer)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in swapped[0].c1.named_parameters()} == {
        "conv.weight": 0.1,
        "norm.weight": 0.0,
        "norm.bias": 0.0,
    }


def test_the_units_norm_takes_the_hosts_settings() -> None:
    model = nn.Sequential(Block())
    model[0].n1.eps, model[0].n1.momentum = 1e-3, 0.01
    model[0].n2.eval().requires_grad_(False)
    swapped = convswap.swap(model, "own", start="fresh", example_input=X)
    first, second = swapped[0].c1.norm, swapped[0].c2.norm
    assert (first.eps, first.momentum, first.training, first.weight.requires_grad) == (1e-3, 0.01, True, True)
    assert (second.eps, second.training, second.weight.requires_grad) == (1e-5, False, False)


def test_units_without_a_norm_of_the_host_are_counted() -> None:
    bare = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), Block())
    plan = convswap.plan_swap(bare, "own", example_input=X)
    assert "1 of 3 units found no BatchNorm of the host to take over: 0" in str(plan)


def test_a_norm_that_also_stands_in_a_list_stays() -> None:
    model = nn.Sequential(Block())
    model.kept = [model[0].n1]  # type: ignore[assignment]
    plan = convswap.plan_swap(model, "own", example_input=X)
    assert plan.replacements[0].absorbed == ()


def test_squeeze_excite_convolutions_get_no_batch_norm() -> None:
    model = convswap.create_model("mobilenetv3_small_100", num_classes=3)
    plan = convswap.plan_swap(model, "own", example_input=torch.randn(1, 3, 64, 64))
    skipped = [skip for skip in plan.skipped if "pooled vector" in skip.reason]
    assert {skip.path.rpartition(".")[2] for skip in skipped} == {"conv_reduce", "conv_expand", "conv_head"}


class Inherits(Own):
    def start_from_batch_norm(self, norm: nn.Module) -> None:
        self.norm.load_state_dict(norm.state_dict())


@pytest.mark.parametrize("start", ["warm", "fresh"])
def test_only_a_warm_start_inherits_what_the_hosts_norm_had_learned(start: Any) -> None:
    register_unit(
        "inherits",
        paper="none",
        year=2026,
        summary="a test",
        warm_start="approximate",
        fusion="none",
        default_where="all",
    )(Inherits)
    model = nn.Sequential(Block())
    for value, norm in enumerate((model[0].n1, model[0].n2), 2):
        norm.running_mean.fill_(value)
        norm.running_var.fill_(value)
        norm.weight.data.fill_(value)
    swapped = convswap.swap(model, "inherits", start=start, example_input=X)
    for value, unit in enumerate((swapped[0].c1, swapped[0].c2), 2):
        learned, spread = (value, value) if start == "warm" else (0, 1)
        assert (unit.norm.running_mean == learned).all()
        assert (unit.norm.running_var == spread).all()
        assert (unit.norm.weight == spread).all()
