"""Why a fused model differs from the given one: random numbers, a jump that rounding decides, or another cause."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .compare import Outputs, named_outputs, outputs_of, precision_of, relative_difference
from .inputs import Inputs
from .tree import map_tensors

_ROUNDINGS = 4  # units in the last place of its largest value by which a layer's output is changed
_JUMP = 1e6  # times that is no rounding any more


def why_different(model: nn.Module, inputs: list[Inputs], tolerance: float) -> str:
    """The likely reason, as a clause. The model is run a few times.

    Args:
        model: the model that is fused, in eval mode.
        inputs: what both models were run on.
        tolerance: the relative difference that is allowed.
    """
    for each in inputs:
        step = _ROUNDINGS * torch.finfo(precision_of(model, each)).eps
        expected, calls = _run(model, each, 0.0)
        if relative_difference(expected, outputs_of(model, each)) > tolerance:
            return "the model gives another output every time it is run, as one that draws random numbers does"
        found, others = _run(model, each, step)
        difference = relative_difference(expected, found)
        if difference > tolerance:
            said = f"rounding alone changes the model's output by {difference:.1e}"
            changes = [(path, relative_difference(a, b)) for (path, a), (_, b) in zip(calls, others, strict=False)]
            place = _jump([change for change in changes if change[0]], difference, step)
            if place is None:
                return (
                    f"{said}: its layers amplify it step by step, as with BatchNorm statistics that are far from its "
                    "maps; give the statistics of real images, or allow a larger tolerance="
                )
            return (
                f"{said}, first in {place}: values that tie decide a sign or an order there, as in untrained binary "
                "networks; train the model, or give another example"
            )
    return "something reads a parameter or a module that fusing changes"


def _jump(changes: list[tuple[str, float]], output: float, step: float) -> str | None:
    """The first module whose output changes far more than every output before it, or None if there is no such leap."""
    before = step
    for path, change in [*changes, ("its own forward", output)]:
        if change > _JUMP * before:
            return path
        before = max(before, change)
    return None


def _run(model: nn.Module, inputs: Inputs, step: float) -> tuple[Outputs, list[tuple[str, Outputs]]]:
    """The output, and that of every module in the order in which they end.

    Those of modules with parameters are changed by noise of this relative size, as another order of sums would.
    """
    names = {id(module): path for path, module in model.named_modules()}
    generator = torch.Generator().manual_seed(0)
    calls: list[tuple[str, Outputs]] = []

    def change(tensor: Tensor) -> Tensor:
        if not step or not tensor.is_floating_point() or not tensor.numel():
            return tensor
        noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
        return tensor + step * (2 * noise - 1) * tensor.abs().max()

    def note(module: nn.Module, args: Any, output: Any) -> Any:
        sums = next(module.parameters(recurse=False), None) is not None  # zeros of a ReLU are not rounded
        changed = map_tensors(output, change) if sums else output
        calls.append((names[id(module)], {path: t.clone() for path, t in named_outputs(changed).items()}))
        return changed

    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        return outputs_of(model, inputs), calls
    finally:
        for handle in handles:
            handle.remove()
