"""No parameter is dead, gradients are right, and training computes what the registry row says."""

from __future__ import annotations

import copy

import pytest
import torch
from contract_cases import Case, assert_same_gradients, difference, each_convolution, each_unit, gradients, image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def _reached(unit: nn.Module, steps: int) -> set[str]:
    """Names of the parameters with a gradient that is more than rounding, over so many SGD steps."""
    optimizer = torch.optim.SGD(unit.parameters(), lr=0.1)
    reached: set[str] = set()
    for step in range(steps):
        found = gradients(unit, lambda: unit(image(unit, batch=3)), seed=step)
        for name, gradient in found.items():
            assert gradient is not None, f"{name} got no gradient"
            assert torch.isfinite(gradient).all(), name
        largest = max(float(g.abs().max()) for g in found.values() if g is not None)
        reached |= {name for name, g in found.items() if g is not None and float(g.abs().max()) > 1e-9 * largest}
        optimizer.step()
    return reached


@each_unit
def test_gradients_reach_every_parameter_from_the_constructor(case: Case) -> None:
    for geometry in case.geometries():
        unit = case.build(geometry, dtype=torch.float64).train()
        # One draw need not use every parameter, a handful must.
        dead = {name for name, _ in unit.named_parameters()} - _reached(unit, steps=20 if case.stochastic else 1)
        assert not dead, f"dead at init in {geometry}: {sorted(dead)}"


@each_convolution
def test_gradients_reach_every_parameter_from_a_warm_start(case: Case) -> None:
    for geometry in case.geometries():
        unit = case.from_conv(nn.Conv2d(**geometry, dtype=torch.float64)).train()
        dead = {name for name, _ in unit.named_parameters()} - _reached(unit, steps=20 if case.stochastic else 2)
        assert not dead, f"dead after a warm start in {geometry}: {sorted(dead)}"


@each_unit
def test_gradcheck(case: Case) -> None:
    if case.spec.gradient == "straight_through":
        pytest.skip("the forward pass has steps: the unit's own tests hold its gradient to the estimator's formula")
    home = case.homes()[0]
    if not case.block:
        width = 4 if home["groups"] > 1 else 2
        home = home | {"in_channels": width, "out_channels": width}
    unit = case.build(home, dtype=torch.float64)
    unit.train(not case.stochastic)
    names = [name for name, _ in unit.named_parameters()]
    # Off the initial values, where a unit may sit on a kink (a gate at zero).
    values = [(p.detach() + 0.05 * torch.randn_like(p)).requires_grad_() for p in unit.parameters()]
    x = image(unit, size=(4, 3)).requires_grad_()

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(unit, dict(zip(names, values, strict=True)), (x,))

    # A block has thousands of parameters: checked along random directions.
    assert torch.autograd.gradcheck(run, (x, *values), atol=1e-6, fast_mode=case.block)


@each_unit
def test_training_computes_what_the_row_declares(case: Case) -> None:
    for geometry in case.geometries():
        unit = case.build(geometry, dtype=torch.float64)
        x = image(unit)
        unit.eval()
        evaluated = unit(x)
        assert torch.equal(evaluated, unit(x)), "evaluation must be deterministic"
        unit.train()
        draws = [unit(x) for _ in range(20 if case.stochastic else 1)]
        declared = case.spec.train_eval
        if declared == "batch_norm" and not any(isinstance(module, _BatchNorm) for module in unit.modules()):
            declared = "same"  # these options leave the BatchNorm out
        if declared == "same":
            assert difference(draws[0], evaluated) < 1e-12
        elif declared == "stochastic":
            assert any(not torch.equal(draws[0], draw) for draw in draws[1:]), "declared stochastic, draws nothing"
        else:
            assert difference(draws[0], evaluated) > 1e-6, "declared batch_norm, computes the same"


@each_unit
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_activation_checkpointing_gives_the_same_gradients(case: Case, mode: str) -> None:
    unit = case.home(dtype=torch.float64).train(mode == "train")
    twin = copy.deepcopy(unit)
    x = image(unit)
    for repeat in range(4 if case.stochastic else 1):
        torch.manual_seed(repeat)
        expected = gradients(unit, lambda: unit(x))
        torch.manual_seed(repeat)
        got = gradients(twin, lambda: checkpoint(twin, x, use_reentrant=False))
        assert_same_gradients(got, expected, 1e-12)
