"""Modules that bound their parameters and scale their learning rate are obeyed by every training."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from convswap.errors import TrainingError, UsageError
from convswap.hooks import Hooks
from convswap.train import (
    build_optimizer,
    constrain,
    fit,
    learning_rate_scales,
    parameter_groups,
    set_learning_rate,
    squared_hinge,
)
from convswap.train.parameters import constraint_of

from .conftest import Bounded, make_model, make_recipe


class Scaled(Hooks, nn.Sequential):
    """`make_model` with these factors of the learning rate."""

    scales: dict[str, float]

    def learning_rate_scale(self) -> dict[str, float]:
        return self.scales


def scaled(scales: dict[str, float]) -> Scaled:
    model = Scaled(*make_model())
    model.scales = scales
    return model


def largest(model: nn.Module) -> float:
    return float(model[0].weight.detach().abs().max())  # type: ignore[index]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "shift_adamax"])
def test_bounds_hold_before_the_first_step_and_after_every_step(data, optimizer) -> None:
    model = Bounded()
    assert largest(model) > Bounded.BOUND
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(largest(module)) if module.training else None)
    recipe = make_recipe(epochs=2, learning_rate=0.02, optimizer=optimizer)
    result = fit(model, data, recipe, seed=0, progress=False, device="cpu")
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert len(seen) == 6
    assert max(seen) <= Bounded.BOUND + 1e-9
    assert largest(model) == pytest.approx(Bounded.BOUND)
    assert model.calls == 7


def test_a_compiled_training_is_bounded_too(data, monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    model = Bounded()
    fit(model, data, make_recipe(epochs=1, compile=True), seed=0, progress=False, device="cpu")
    assert model.calls == 4
    assert largest(model) == pytest.approx(Bounded.BOUND)


@pytest.mark.parametrize("optimizer", ["adam", "shift_adamax"])
def test_a_resumed_training_ends_as_an_unbroken_one(data, tmp_path, optimizer) -> None:
    recipe = make_recipe(epochs=3, learning_rate=0.02, optimizer=optimizer)
    unbroken, broken = Bounded(), Bounded()
    fit(unbroken, data, recipe, seed=0, progress=False, device="cpu")

    def stop(row) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(broken, data, recipe, seed=0, directory=tmp_path, progress=False, device="cpu", on_epoch=stop)
    resumed = Bounded(seed=9)
    assert fit(resumed, data, recipe, seed=0, directory=tmp_path, progress=False, device="cpu").resumed_after == 2
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in unbroken.state_dict().items())
    other = make_recipe(epochs=3, learning_rate=0.02)
    with pytest.raises(TrainingError, match="optimizer"):
        fit(Bounded(), data, other, seed=0, directory=tmp_path, progress=False, device="cpu")


def test_scales_make_groups_of_their_own() -> None:
    model = nn.ModuleDict({"a": Bounded(), "b": make_model()})
    assert learning_rate_scales(model) == {"a.0.weight": 3.0}
    groups = parameter_groups(model, 0.1)
    assert [group.get("lr_scale") for group in groups] == [None, None, 3.0]
    assert groups[2]["weight_decay"] == 0.1
    assert [id(p) for p in groups[2]["params"]] == [id(model["a"][0].weight)]  # type: ignore[index]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    optimizer = build_optimizer(model, make_recipe(), torch.device("cpu"))
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5, 1.5]


def test_a_scale_of_adam_scales_the_step(data) -> None:
    steps = []
    for factor in (1.0, 4.0):
        model = scaled({"0.weight": factor})
        before = model[0].weight.detach().clone()
        optimizer = build_optimizer(model, make_recipe(optimizer="adam", weight_decay=0.0), torch.device("cpu"))
        set_learning_rate(optimizer, 0.01)
        torch.manual_seed(0)
        model.eval()(torch.ones(2, 1, 8, 8)).square().sum().backward()
        optimizer.step()
        steps.append(model[0].weight.detach() - before)
    torch.testing.assert_close(steps[1], 4 * steps[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scales", [{"nothing": 2.0}, {"0.weight": 0.0}, {"0.weight": float("nan")}])
def test_wrong_scales_are_refused(scales) -> None:
    model = scaled(scales)
    with pytest.raises(UsageError, match="numbers above 0"):
        parameter_groups(model, 0.1)


@pytest.mark.parametrize("hook", ["constrain_", "learning_rate_scale"])
def test_a_hook_that_nobody_would_call_is_refused(hook) -> None:
    stranger = type("Stranger", (nn.Linear,), {hook: lambda self: {}})
    ask = {"constrain_": constrain, "learning_rate_scale": learning_rate_scales}[hook]
    with pytest.raises(UsageError, match=rf"0 is a Stranger with {hook}\(\), but not a convswap.hooks.Hooks; inherit"):
        ask(nn.Sequential(stranger(2, 2)))


def test_constrain_reaches_through_a_wrapper() -> None:
    model = Bounded()
    wrapper = nn.Sequential(model)
    constrain(wrapper)
    assert model.calls == 1
    assert largest(model) == pytest.approx(Bounded.BOUND)
    assert model[0].weight.requires_grad


def test_every_step_finds_the_modules_without_a_walk(monkeypatch) -> None:
    model = Bounded()
    rule = constraint_of(nn.Sequential(model, nn.ReLU()))
    monkeypatch.setattr(nn.Module, "named_modules", None)
    for calls in (1, 2):
        model[0].weight.data.fill_(1.0)
        rule()
        assert model.calls == calls
        assert largest(model) == pytest.approx(Bounded.BOUND)


def test_squared_hinge_is_its_formula() -> None:
    logits = torch.randn(5, 4, dtype=torch.float64)
    labels = torch.tensor([0, 3, 1, 1, 2])
    expected = sum(
        max(0.0, 1 - (1 if c == labels[n] else -1) * float(logits[n, c])) ** 2 for n in range(5) for c in range(4)
    )
    assert float(squared_hinge(logits, labels)) == pytest.approx(expected / 20)
    assert torch.autograd.gradcheck(lambda y: squared_hinge(y, labels), (logits.clone().requires_grad_(),))
    assert squared_hinge(logits.detach().bfloat16(), labels).dtype == torch.float32


def test_the_hinge_trains(data) -> None:
    recipe = make_recipe(epochs=6, loss="squared_hinge", label_smoothing=0.0, learning_rate=0.05)
    model = make_model()
    model.append(nn.BatchNorm1d(3))
    result = fit(model, data, recipe, seed=0, progress=False, device="cpu")
    assert result.test_accuracy > 0.9
