"""An operation right behind a unit may overwrite its output, as in networks with in-place activations."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import first_line
from ..aids import demand_close, image, lived_in
from ..case import Case
from ..rule import demand, rule

#: In place, and the same out of place.
_BEHIND: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "relu_": (torch.relu_, torch.relu),
    "hardswish_": (lambda y: F.hardswish(y, inplace=True), F.hardswish),
    "add_": (lambda y: y.add_(1.5), lambda y: y + 1.5),
    "dropout_": (lambda y: F.dropout(y, 0.4, inplace=True), lambda y: F.dropout(y, 0.4)),
}


@rule()
def output_may_be_overwritten(case: Case) -> None:
    """An in-place operation right behind the unit must compute and train as the out-of-place one.

    Return from a custom `autograd.Function` a tensor of its own, and let no last operation keep its result for the
    backward pass, as `relu` and `sigmoid` do (`convswap.units.support.rectifier.FreeReLU` does not).
    """
    unit = lived_in(case, dtype=torch.float64)
    for train in (False, True):
        for name, module in (("the unit", unit.train(train)), ("its fused form", copy.deepcopy(unit).fuse())):
            x = image(unit)
            for operation, (in_place, plain) in _BEHIND.items():
                expected = _run(module, x, plain)
                what = f"{operation} behind {name} in {'train' if train else 'eval'} mode"
                try:
                    found = _run(module, x, in_place)
                except RuntimeError as error:
                    demand(False, f"{what} fails: {first_line(error)}")
                for part, (value, wanted) in enumerate(zip(found, expected, strict=True)):
                    demand_close(value, wanted, 1e-12, f"{what}: {'a gradient' if part else 'the output'}")


def _run(module: nn.Module, given: Tensor, behind: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The output, and the gradients of the input and all parameters where there are any."""
    twin = copy.deepcopy(module)
    torch.manual_seed(3)
    x = given.clone().requires_grad_()
    y = behind(twin(x))
    demand(torch.equal(x, given), "the operation behind the unit changed the unit's input")
    if not y.requires_grad:
        return [y]
    wanted = [x, *(p for p in twin.parameters() if p.requires_grad)]
    found = torch.autograd.grad((y * torch.randn_like(y)).sum(), wanted, allow_unused=True)
    return [y, *(g for g in found if g is not None)]
