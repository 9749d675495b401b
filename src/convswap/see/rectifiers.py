"""Other backward rules for rectifiers, for modules and for functional calls alike.

Tools that patch only `nn.ReLU` modules silently give the plain gradient for `F.relu`, `x.relu()` or
`torch.clamp(x, min=0)`. Here every rectifying call of torch is intercepted while the model runs, however it is written.
A model without any is an error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..errors import is_number


class _Rule(torch.autograd.Function):
    """A clipped identity whose gradient follows a rule: out = clamp(x, 0, top)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float, guided: bool) -> Tensor:
        ctx.guided = guided
        if guided:
            ctx.save_for_backward((x > 0) & (x < top))
        return x.clamp(0, top)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        positive = gradients[0].clamp_min(0)
        return (positive * ctx.saved_tensors[0] if ctx.guided else positive), None, None


_RELU: set[Callable[..., Any]] = {F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_, F.relu_}
_CLAMP_MIN: set[Callable[..., Any]] = {torch.clamp_min, Tensor.clamp_min, torch.clamp_min_, Tensor.clamp_min_}
_CLAMP: set[Callable[..., Any]] = {
    torch.clamp,
    Tensor.clamp,
    torch.clamp_,
    Tensor.clamp_,
    torch.clip,
    Tensor.clip,
    torch.clip_,
    Tensor.clip_,
}
_MAXIMUM: set[Callable[..., Any]] = {torch.maximum, torch.max, Tensor.maximum, Tensor.max}
_IN_PLACE = {f for f in _RELU | _CLAMP_MIN | _CLAMP if f.__name__.endswith("_")}
_SMOOTH = {
    F.silu: "SiLU",
    F.gelu: "GELU",
    F.hardswish: "Hardswish",
    F.mish: "Mish",
    F.elu: "ELU",
    F.selu: "SELU",
    F.celu: "CELU",
    F.leaky_relu: "LeakyReLU",
    F.prelu: "PReLU",
    F.rrelu: "RReLU",
    F.softplus: "Softplus",
    torch.tanh: "tanh",
    Tensor.tanh: "tanh",
    F.tanh: "tanh",
}


class Rectifying(TorchFunctionMode):
    """While active, gradients pass rectifiers by the rule `"guided"` or `"deconvolution"`.

    The rule covers ReLU and ReLU6 (hardtanh and clamps that begin at 0), as modules, functions and methods, in place or
    not, and the maximum with a zero. It reaches nothing inside compiled or scripted models.

    Attributes:
        met: how many calls of rectifiers there were.
        left: calls by name of other activations, whose gradient stays as it is.
    """

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.guided = rule == "guided"
        self.met = 0
        self.left: Counter[str] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        found = rectifier(func, args, kwargs)
        if found is None:
            if func in _SMOOTH:
                self.left[_SMOOTH[func]] += 1
            return func(*args, **kwargs)
        x, top, in_place = found
        self.met += 1
        result = _Rule.apply(x, top, self.guided)
        return x.copy_(result) if in_place else result


def rectifier(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, float, bool] | None:
    """What a call of torch rectifies: the tensor, the upper limit, whether in place. None for any other call."""
    given = dict(zip(("input", *_PARAMETERS.get(func, ())), args, strict=False)) | kwargs
    x = given.get("input", given.get("self"))
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return None
    in_place = func in _IN_PLACE or bool(given.get("inplace", False))
    if func in _RELU:
        return x, math.inf, in_place
    if func is F.relu6:
        return x, 6.0, in_place
    if func is F.hardtanh and given.get("min_val", -1.0) == 0:
        return x, float(given.get("max_val", 1.0)), in_place
    if func is F.threshold and _is_zero(given.get("threshold")) and _is_zero(given.get("value")):
        return x, math.inf, in_place
    if func in _CLAMP_MIN | _CLAMP and _is_zero(given.get("min")):
        top = given.get("max")
        return None if isinstance(top, Tensor) else (x, math.inf if top is None else float(top), in_place)
    if func in _MAXIMUM:
        other = given.get("other")
        if isinstance(other, Tensor) and _is_zero(x):
            return other, math.inf, False
        return (x, math.inf, False) if _is_zero(other) else None
    return None


def _is_zero(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.grad_fn is None and not value.requires_grad and not bool((value != 0).any())
    return is_number(value) and value == 0


_PARAMETERS: dict[Callable[..., Any], tuple[str, ...]] = {
    **dict.fromkeys((F.relu, F.relu6), ("inplace",)),
    F.hardtanh: ("min_val", "max_val", "inplace"),
    F.threshold: ("threshold", "value", "inplace"),
    **dict.fromkeys(_CLAMP, ("min", "max")),
    **dict.fromkeys(_CLAMP_MIN, ("min",)),
    **dict.fromkeys(_MAXIMUM, ("other",)),
}
