"""Full precision: the dtype in which weights are formed, copies in float64, and constants that keep their digits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self, TypeVar, cast

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision in which weights are formed: at least float32, also under autocast."""
    return torch.promote_types(dtype, torch.float32)


def double_copy(module: M) -> M:
    """A float64 copy of a module, its constants exact; the module itself is untouched."""
    return copy.deepcopy(module).double()


class Constants:
    """Mixin, before `nn.Module`: constant matrices that follow the module's device and keep full precision.

    A plain non-persistent buffer is rounded by `.half()`, left uninitialised by `to_empty()`, and stays on
    the meta device after `load_state_dict(assign=True)`. This mixin rebuilds its constants from float64 instead.
    """

    def constants(self) -> dict[str, Tensor]:
        """The unit's constant matrices in float64 on the CPU, by buffer name. Override; cache the work."""
        return {}

    def register_constants(self) -> None:
        """Register every constant as a non-persistent buffer. Call once, at the end of `setup`."""
        module = cast(nn.Module, self)
        for name, value in self.constants().items():
            module.register_buffer(name, self._placed(value), persistent=False)

    def _placed(self, value: Tensor) -> Tensor:
        weight = cast(Tensor, cast(Any, self).weight)
        return value.to(device=weight.device, dtype=compute_dtype(weight.dtype))

    def _replace_constants(self) -> None:
        module = cast(nn.Module, self)
        for name, value in self.constants().items():
            module._buffers[name] = self._placed(value)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[misc]
        self._replace_constants()
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)  # type: ignore[misc]
        # Loading by assignment changes the weight's device (off meta) or dtype behind `_apply`'s back.
        weight = cast(Tensor, cast(Any, self).weight)
        place = (weight.device, compute_dtype(weight.dtype))
        present = [cast(Tensor, cast(nn.Module, self)._buffers[name]) for name in self.constants()]
        if any((buffer.device, buffer.dtype) != place for buffer in present):
            self._replace_constants()
