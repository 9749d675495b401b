"""Swapping: what is kept, what is refused, what the plan says."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from networks import Functional, Plain, SharedConvolution, randomize
from torch import nn
from torch.nn.utils import prune

import convswap
from convswap.errors import SurgeryError, UsageError
from convswap.units import PlainConv2d
from convswap.units.circle.circle import CircleConv2d


def image(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_keeps_the_function_and_leaves_the_model_alone() -> None:
    model = randomize(Plain()).double()
    before = copy.deepcopy(model.state_dict())
    x = image(2, 3, 9, 11)
    swapped = convswap.swap(model, "circle", where="3x3", example_input=x)
    assert isinstance(swapped.conv1, CircleConv2d)
    assert type(model.conv1) is nn.Conv2d
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    torch.testing.assert_close(swapped(x), model(x), rtol=1e-10, atol=1e-10)


def test_fresh_start_keeps_the_drawn_weights() -> None:
    model = Plain()
    swapped = convswap.swap(model, "circle", where="3x3", start="fresh")
    assert torch.equal(swapped.conv1.weight, model.conv1.weight)


def test_a_plan_changes_nothing_and_draws_no_numbers() -> None:
    model = Plain()
    state = torch.get_rng_state()
    convswap.plan_swap(model, "circle", where="3x3", example_input=torch.zeros(1, 3, 8, 8))
    assert torch.equal(state, torch.get_rng_state())
    assert type(model.conv1) is nn.Conv2d
    assert model.training


def test_plan_as_table_and_json() -> None:
    plan = convswap.plan_swap(Plain(), "circle", where="3x3", example_input=torch.zeros(2, 3, 8, 8))
    text = str(plan)
    data = json.loads(plan.to_json())
    assert [r["path"] for r in data["replacements"]] == ["conv2", "conv1"]
    first = data["replacements"][0]
    assert first["parameters_before"] == 8 * 6 * 9 + 8
    assert first["macs_before"] == 8 * 6 * 9 * 4 * 4  # per image, although two were given
    assert first["start"] == "exact"
    assert "conv2" in text
    assert "6->8 3x3 s2" in text
    assert f"{first['macs_before']:,}" in text


def test_shared_convolution_is_replaced_everywhere_by_one_object() -> None:
    swapped = convswap.swap(SharedConvolution(), "conv")
    assert isinstance(swapped.conv, PlainConv2d)
    assert swapped.conv is swapped.again
    plan = convswap.plan_swap(SharedConvolution(), "conv")
    assert plan.replacements[0].other_paths == ("again",)
    assert "1 references" in str(plan)


def test_containers_and_dotted_paths() -> None:
    model = nn.ModuleDict({"a": nn.ModuleList([nn.Conv2d(3, 3, 3)]), "b": nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU())})
    swapped = convswap.swap(model, "conv")
    assert [n for n, _ in swapped.named_modules()] == [n for n, _ in model.named_modules()]
    assert isinstance(swapped["a"][0], PlainConv2d)
    assert isinstance(swapped["b"][0], PlainConv2d)


def test_a_model_that_is_itself_a_convolution() -> None:
    conv = nn.Conv2d(3, 4, 3).double()
    x = image(1, 3, 7, 7)
    swapped = convswap.swap(conv, "circle", where="all")
    assert isinstance(swapped, CircleConv2d)
    torch.testing.assert_close(swapped(x), conv(x), rtol=1e-10, atol=1e-10)
    with pytest.raises(SurgeryError, match="itself a convolution"):
        convswap.plan_swap(conv, "circle", where="all").apply(inplace=True)


def test_device_dtype_mode_trainability_and_memory_format_survive() -> None:
    model = Plain().to(torch.bfloat16).to(memory_format=torch.channels_last)
    model.conv1.weight.requires_grad_(False)
    model.conv2.eval()
    swapped = convswap.swap(model, "circle", where="3x3")
    assert swapped.conv1.weight.dtype == torch.bfloat16
    assert not swapped.conv1.weight.requires_grad
    assert swapped.conv2.weight.requires_grad
    assert not swapped.conv2.training
    assert swapped.conv1.training
    assert swapped.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    on_meta = convswap.swap(Plain().to("meta"), "circle", where="3x3")
    assert on_meta.conv1.weight.is_meta


def test_hooks_survive_and_can_still_be_removed() -> None:
    model = Plain().eval()
    calls = []
    handle = model.conv1.register_forward_hook(lambda *_: calls.append("forward"))
    model.conv1.register_forward_pre_hook(lambda *_: calls.append("pre"))
    plan = convswap.plan_swap(model, "circle", where="3x3", example_input=torch.zeros(1, 3, 8, 8))
    calls.clear()
    swapped = plan.apply(inplace=True)
    calls.clear()
    swapped(torch.zeros(1, 3, 8, 8))
    assert calls == ["pre", "forward"]
    handle.remove()
    swapped(torch.zeros(1, 3, 8, 8))
    assert calls == ["pre", "forward", "pre"]


class OwnConvolution(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (OwnConvolution(3, 3, 3), "subclass of nn.Conv2d"),
        (nn.LazyConv2d(3, 3), "it has no weights yet"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3)), "parametrized"),
        (nn.utils.spectral_norm(nn.Conv2d(3, 3, 3)), "SpectralNorm hook"),
        (nn.Conv2d(3, 3, 2), "2x2 kernel"),
    ],
)
def test_places_that_are_skipped_with_a_reason(conv: nn.Module, reason: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), conv)
    plan = convswap.plan_swap(model, "circle", where="all")
    assert [r.path for r in plan.replacements] == ["0"]
    assert plan.skipped[0].path == "1"
    assert reason in plan.skipped[0].reason
    assert reason in str(plan)


def test_pruned_and_tied_weights_are_skipped() -> None:
    pruned = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    prune.l1_unstructured(pruned[1], "weight", 0.5)
    assert "hook" in convswap.plan_swap(pruned, "circle", where="all").skipped[0].reason
    tied = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    tied[2].weight = tied[1].weight
    assert [s.reason for s in convswap.plan_swap(tied, "circle", where="all").skipped] == [
        "its weight is tied to another module's"
    ] * 2


def test_one_unit_to_another_keeps_the_function() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)).double()
    x = image(1, 3, 9, 9)
    circles = convswap.swap(model, "circle", where="all")
    again = convswap.plan_swap(circles, "circle", where="all", angles="arctan").apply()
    assert again[0].angles == "arctan"
    torch.testing.assert_close(again(x), model(x), rtol=1e-10, atol=1e-10)
    with pytest.raises(SurgeryError, match="already is a circle"):
        convswap.plan_swap(circles, "circle", where="all")


def test_functional_convolutions_are_counted_and_said() -> None:
    plan = convswap.plan_swap(Functional(), "circle", where="3x3", example_input=torch.zeros(1, 3, 8, 8))
    assert plan.functional_convolutions == 1
    assert "no swap can reach them" in str(plan)


def test_optimizer_is_refused_or_updated() -> None:
    model = Plain()
    optimizer = torch.optim.SGD([{"params": [model.conv1.weight], "lr": 1.0}, {"params": [model.head.weight]}], lr=0.1)
    plan = convswap.plan_swap(model, "circle", where="conv1", radius="learnable")
    with pytest.raises(SurgeryError, match="inplace=True"):
        plan.apply(optimizer=optimizer)
    swapped = plan.apply(inplace=True, optimizer=optimizer)
    held = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {held[id(p)] for p in swapped.conv1.parameters()} == {1.0}
    assert held[id(swapped.head.weight)] == 0.1
    before = swapped.conv1.weight.detach().clone()
    swapped(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    assert not torch.equal(before, swapped.conv1.weight)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_wrapped_models_are_refused(wrap: object) -> None:
    with pytest.raises(SurgeryError, match="swap first"):
        convswap.swap(wrap(Plain()), "circle")  # type: ignore[operator]


def test_errors_name_the_thing_and_the_nearest_fix() -> None:
    model = Plain()
    with pytest.raises(UsageError, match="did you mean 'circle'"):
        convswap.swap(model, "circel")
    with pytest.raises(UsageError, match="no option 'radios'; did you mean 'radius'"):
        convswap.swap(model, "circle", radios=1.0)
    with pytest.raises(ValueError, match="radius='wide'"):
        convswap.swap(model, "circle", where="3x3", radius="wide")
    with pytest.raises(UsageError, match="start='hot'"):
        convswap.swap(model, "circle", start="hot")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"matches none of the model's 3 convolutions"):
        convswap.swap(model, "circle", where="layer9.*")
    with pytest.raises(SurgeryError, match="none of the 1 selected places"):
        convswap.swap(model, "circle", where="head")
    with pytest.raises(SurgeryError, match=r"does not accept the example input of shape \(1, 5, 8, 8\)"):
        convswap.swap(model, "circle", example_input=torch.zeros(1, 5, 8, 8))


def test_a_unit_of_the_wrong_shape_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = convswap.plan_swap(Plain(), "circle", where="conv1", example_input=torch.zeros(1, 3, 8, 8))
    monkeypatch.setattr(CircleConv2d, "forward", lambda self, x: nn.Conv2d.forward(self, x)[..., :4, :4])
    with pytest.raises(SurgeryError, match="conv1: circle gives output shapes"):
        plan.apply()


def test_the_guessed_example_has_the_channels_the_model_was_built_for() -> None:
    import timm

    plan = convswap.plan_swap(timm.create_model("resnet18", in_chans=1), "circle")
    assert plan.replacements[0].macs_before is not None


class Functionally(nn.Module):
    """Reads a convolution's weight without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.conv2d(x, self.conv.weight, self.conv.bias))


def test_a_convolution_that_is_never_called_is_left() -> None:
    plan = convswap.plan_swap(Functionally(), "circle", where="all", example_input=torch.zeros(1, 3, 9, 9))
    assert [r.path for r in plan.replacements] == ["head"]
    assert "does not call it" in plan.skipped[0].reason


def test_a_convolution_in_a_plain_list_is_left() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
            self.order = [self.first]

    plan = convswap.plan_swap(Listed(), "circle", where="all")
    assert [r.path for r in plan.replacements] == ["second"]
    assert plan.skipped[0].reason.startswith("it also stands in order")


def test_a_forward_replaced_on_the_object_is_left() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    model[0].forward = lambda x: x
    assert (
        convswap.plan_swap(model, "circle", where="all").skipped[0].reason == "its forward was replaced on the object"
    )


def test_optimizer_groups_are_kept_by_name_and_checked_before_the_edit() -> None:
    model = Plain()
    decayed, plain = [model.conv2.weight], [model.conv2.bias]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], lr=1
    )
    plan = convswap.plan_swap(model, "circle", where="conv2", radius="learnable")
    swapped = plan.apply(inplace=True, optimizer=optimizer)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: decay[id(p)] for name, p in swapped.conv2.named_parameters()}
    assert found == {"weight": 0.1, "bias": 0.0, "radius_logit": 0.0}
    wrong = convswap.plan_swap(model, "circle", where="conv1")
    with pytest.raises(SurgeryError, match="pass the right one"):
        wrong.apply(inplace=True, optimizer=optimizer)
    assert type(model.conv1) is nn.Conv2d
    model.conv1.requires_grad_(False)
    wrong.apply(inplace=True, optimizer=optimizer)
    assert isinstance(model.conv1, CircleConv2d)


def test_what_a_unit_keeps_from_decay_gets_a_group_without_it() -> None:
    model = Plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    convswap.plan_swap(model, "circle", where="conv2", radius="learnable").apply(inplace=True, optimizer=optimizer)
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    groups = {name: group_of[id(p)] for name, p in model.conv2.named_parameters()}
    assert {name: group["weight_decay"] for name, group in groups.items()} == {
        "weight": 0.1,
        "bias": 0.1,
        "radius_logit": 0.0,
    }
    assert (groups["radius_logit"]["lr"], groups["radius_logit"]["momentum"]) == (0.5, 0.9)


def test_a_stale_plan_is_refused() -> None:
    model = Plain()
    plan = convswap.plan_swap(model, "ic", where="3x3")
    plan.apply(inplace=True)
    with pytest.raises(SurgeryError, match="changed since the plan was made"):
        plan.apply(inplace=True)


def test_half_precision_is_not_called_exact_where_it_is_not() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 7))
    assert convswap.plan_swap(model, "circle", where="all").replacements[0].start == "exact"
    assert convswap.plan_swap(model.bfloat16(), "circle", where="all").replacements[0].start == "approximate"


def test_a_frozen_weight_with_a_trainable_bias() -> None:
    for unit in convswap.list_units():
        row = convswap.get_unit(unit)
        if row.kind == "block" or row.constant_weight or row.cls.supports(nn.Conv2d(3, 3, 3)):
            continue
        model = nn.Sequential(nn.Conv2d(3, 3, 3))
        model[0].weight.requires_grad_(False)
        if row.warm_start != "exact":
            with pytest.raises(SurgeryError, match=f"it is frozen, and a {unit} there starts inexactly"):
                convswap.swap(model, unit, where="all")
            continue
        unit_module = convswap.swap(model, unit, where="all")[0]
        assert not unit_module.weight.requires_grad
        assert unit_module.bias is None or unit_module.bias.requires_grad


def test_two_branches_become_one_circle() -> None:
    model = convswap.swap(nn.Sequential(nn.Conv2d(3, 3, 3)).double().eval(), "circle_square", where="all")
    x = image(1, 3, 7, 7)
    torch.testing.assert_close(convswap.swap(model, "circle", where="all")(x), model(x), rtol=1e-10, atol=1e-10)


def test_an_example_that_holds_no_tensor() -> None:
    with pytest.raises(UsageError, match="must hold a tensor, got tuple"):
        convswap.plan_swap(Plain(), "circle", example_input=(1, 3, 8, 8))


@pytest.mark.parametrize("kind", ["momentum", "adam"])
def test_the_optimizer_forgets_the_state_of_what_was_exchanged_and_goes_on(kind: str) -> None:
    model = Plain()
    if kind == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        model(torch.randn(2, 3, 8, 8)).square().sum().backward()
        optimizer.step()

    step()
    kept = optimizer.state[model.head.weight]
    convswap.plan_swap(model, "circle", where="3x3").apply(inplace=True, optimizer=optimizer)
    held = {p for group in optimizer.param_groups for p in group["params"]}
    assert held == set(model.parameters())
    assert set(optimizer.state) == held - {p for c in (model.conv1, model.conv2) for p in c.parameters()}
    assert optimizer.state[model.head.weight] is kept
    step()
    assert set(optimizer.state) == held
    twin = copy.deepcopy(optimizer)
    twin.load_state_dict(optimizer.state_dict())
