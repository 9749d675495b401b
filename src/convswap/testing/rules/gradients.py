"""No parameter is dead, gradients are right, and training computes what the registry row says."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..aids import demand_close, demand_same_gradients, difference, gradients, image
from ..case import Case
from ..rule import CONVOLUTIONS, NotApplicable, demand, rule


def _reached(unit: nn.Module, steps: int) -> set[str]:
    """Names of the parameters whose gradient is more than rounding, over this many SGD steps."""
    optimizer = torch.optim.SGD(unit.parameters(), lr=0.1)
    reached: set[str] = set()
    for step in range(steps):
        found: dict[str, Tensor] = {}
        for name, gradient in gradients(unit, lambda: unit(image(unit, batch=3)), seed=step).items():
            demand(gradient is not None, f"{name} got no gradient")
            if gradient is not None:
                demand(bool(torch.isfinite(gradient).all()), f"the gradient of {name} is not finite")
                found[name] = gradient
        largest = max(float(g.abs().max()) for g in found.values())
        reached |= {name for name, g in found.items() if float(g.abs().max()) > 1e-9 * largest}
        optimizer.step()
    return reached


def _demand_alive(unit: Any, steps: int, where: object) -> None:
    if not list(unit.parameters()):
        return
    dead = {name for name, _ in unit.named_parameters()} - _reached(unit, steps)
    demand(not dead, f"parameters without effect on the output in {where}: {sorted(dead)}")


@rule()
def gradients_reach_every_parameter(case: Case) -> None:
    """Every parameter of a newly constructed unit must get a gradient at once."""
    for geometry in case.geometries():
        unit = case.build(geometry, dtype=torch.float64).train()
        # One draw need not use every parameter, but a handful of draws must.
        _demand_alive(unit, 20 if case.stochastic else 1, geometry)


@rule(CONVOLUTIONS)
def gradients_reach_every_parameter_from_a_warm_start(case: Case) -> None:
    """Every parameter must get a gradient within two steps after `from_conv`."""
    for geometry in case.geometries():
        unit = case.from_conv(nn.Conv2d(**geometry, dtype=torch.float64)).train()
        _demand_alive(unit, 20 if case.stochastic else 2, geometry)


@rule()
def gradients_are_the_derivative(case: Case) -> None:
    """The backward pass must give the derivative of the forward pass, unless the row says `straight_through`."""
    if case.spec.gradient == "straight_through":
        raise NotApplicable("the forward pass has steps: the unit's own tests must hold its gradient to its formula")
    home = case.homes()[0]
    if not case.block:
        width = 4 if home["groups"] > 1 else 2
        home = home | {"in_channels": width, "out_channels": width}
    unit = case.build(home, dtype=torch.float64)
    unit.train(not case.stochastic)
    names = [name for name, _ in unit.named_parameters()]
    # Away from the initial values, where a unit may sit on a kink (a gate at zero).
    values = [(p.detach() + 0.05 * torch.randn_like(p)).requires_grad_() for p in unit.parameters()]
    x = image(unit, size=(4, 3)).requires_grad_()

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(unit, dict(zip(names, values, strict=True)), (x,))

    # A block has thousands of parameters, so it is checked along random directions.
    torch.autograd.gradcheck(run, (x, *values), atol=1e-6, fast_mode=case.block)


@rule()
def training_computes_what_the_row_declares(case: Case) -> None:
    """Evaluation must be deterministic, and training must differ from it exactly as the row's `train_eval` says."""
    for geometry in case.geometries():
        unit = case.build(geometry, dtype=torch.float64)
        x = image(unit)
        unit.eval()
        evaluated = unit(x)
        demand(torch.equal(evaluated, unit(x)), "two evaluations of one input differ")
        unit.train()
        draws = [unit(x) for _ in range(20 if case.stochastic else 1)]
        declared = case.spec.train_eval
        if declared == "batch_norm" and not any(isinstance(module, _BatchNorm) for module in unit.modules()):
            declared = "same"  # these options leave the BatchNorm out
        if declared == "same":
            demand_close(draws[0], evaluated, 1e-12, "training, declared train_eval='same',")
        elif declared == "stochastic":
            differ = any(not torch.equal(draws[0], draw) for draw in draws[1:])
            demand(differ, "declared train_eval='stochastic', but 20 training passes are equal")
        else:
            differ = difference(draws[0], evaluated) > 1e-6
            demand(differ, "declared train_eval='batch_norm', but training computes what evaluation does")


@rule()
def activation_checkpointing_gives_the_same_gradients(case: Case) -> None:
    """Under `torch.utils.checkpoint` the unit must give the gradients it gives without, in training and evaluation."""
    for train in (True, False):
        unit = case.home(dtype=torch.float64).train(train)
        twin = copy.deepcopy(unit)
        x = image(unit)
        for repeat in range(4 if case.stochastic else 1):
            torch.manual_seed(repeat)
            expected = gradients(unit, partial(unit, x))
            torch.manual_seed(repeat)
            got = gradients(twin, partial(checkpoint, twin, x, use_reentrant=False))
            demand_same_gradients(got, expected, 1e-12, f"checkpointed, {'train' if train else 'eval'} mode")
