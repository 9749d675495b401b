"""Folding a BatchNorm into a unit by other people's code: right, or refused.

torch's `fuse_conv_bn_eval`, mmengine's `fuse_conv_bn` and ultralytics' `fuse` write `s W` and `s b + t` over the weight
`W` and the bias `b` of what they take for a convolution. A unit computes something else from `W`. That is right only
where its output follows: `f(x; s W, s b + t) = s f(x; W, b) + t` for each output channel.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import SurgeryError
from .options import Configured, writes_constructor

_own_fold: ContextVar[bool] = ContextVar("own_fold", default=False)
_TOLERANCE = 1e-9


class RefusesForeignFolds:
    """Mixin, before `nn.Module`: writing a folded BatchNorm over `weight` or `bias` is checked, and refused if wrong.

    The bases of units have it. A unit that writes its own constructor is not checked. Code that edits
    `unit.weight.data`, or makes a new convolution of what it reads in `unit.weight`, cannot be noticed.
    """

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        own = vars(cls).get("fold_affine")
        if own is not None:
            cls.fold_affine = _as_own_fold(own)  # type: ignore[attr-defined]

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter, as `nn.Module` does when one is assigned.

        Raises:
            SurgeryError: it holds a BatchNorm folded into this unit, which would change the unit's function.
        """
        unit = cast(nn.Module, self)
        watched = name in ("weight", "bias") and param is not None and _is_built(unit) and not _own_fold.get()
        if watched and _looks_folded(unit, name, cast(Tensor, param)) and not _follows(unit):
            raise SurgeryError(
                f"other code folds a BatchNorm into the {name} of {type(unit).__name__}, whose function would change; "
                "take a fresh copy of the model and call convswap.fuse(model, example) first"
            )
        super().register_parameter(name, param)  # type: ignore[misc]


def _as_own_fold(fold: Callable[..., None]) -> Callable[..., None]:
    @wraps(fold)
    def folding(*args: Any, **kwargs: Any) -> None:
        with own_fold():
            fold(*args, **kwargs)

    return folding


@contextmanager
def own_fold() -> Any:
    """Within this, a unit's weight and bias may be written: whoever writes knows what the unit computes."""
    token = _own_fold.set(True)
    try:
        yield
    finally:
        _own_fold.reset(token)


def _is_built(unit: nn.Module) -> bool:
    """Has the base's constructor ended? It sets `options` before `setup`, and removes `place` after it."""
    ended = "options" in unit.__dict__ and "place" not in unit.__dict__
    return ended and not writes_constructor(cast(type[Configured], type(unit)))


def _looks_folded(unit: nn.Module, name: str, new: Tensor) -> bool:
    """A bias where there was none, a weight that is no parameter of the unit, or each filter scaled by a number."""
    old = unit._parameters.get(name)
    if name == "bias":
        return old is None
    if old is None:
        return True
    if old.shape != new.shape or old.is_meta or new.is_meta:
        return False
    a, b = (t.detach().flatten(1).to("cpu", torch.float64) for t in (old, new))
    scale = (a * b).sum(1) / (a * a).sum(1).clamp_min(torch.finfo(torch.float64).tiny)
    rounding = 10 * torch.finfo(new.dtype).eps * b.abs().amax()
    return bool(scale.ne(1).any()) and bool(((scale[:, None] * a - b).abs() <= rounding).all())


@torch.no_grad()
def _follows(unit: nn.Module) -> bool:
    """Does the output scale and shift with weight and bias? Tried in float64 on noise, on a copy."""
    layer = cast(Any, unit)
    weight, outputs = unit._parameters.get("weight"), layer.out_channels
    if weight is None or weight.is_meta or weight.shape[0] != outputs or not _free(unit, "bias"):
        return False
    generator = torch.Generator().manual_seed(0)
    sides = zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    height, width = (d * (k - 1) + 1 + 2 * s for k, s, d in sides)
    x = torch.randn(2, layer.in_channels, height, width, generator=generator, dtype=torch.float64)
    scale = torch.rand(outputs, generator=generator, dtype=torch.float64) + 0.5
    scale[::2] *= -1
    shift = torch.randn(outputs, generator=generator, dtype=torch.float64)
    with own_fold():
        plain = copy.deepcopy(unit).cpu().double().eval()
        folded = copy.deepcopy(plain)
        cast(Tensor, folded.weight).mul_(scale.reshape(-1, *(1,) * (weight.dim() - 1)))
        bias = cast(Tensor | None, folded.bias)
        folded.bias = nn.Parameter(shift if bias is None else bias * scale + shift)
        expected = plain(x) * scale[:, None, None] + shift[:, None, None]
        difference = (folded(x) - expected).abs().amax()
    return bool(difference <= _TOLERANCE * expected.abs().amax())


def _free(unit: nn.Module, name: str) -> bool:
    return name in unit._parameters or not hasattr(unit, name)
