"""Frozen batch norms: modules that are a fixed affine map of every channel, but no `nn.BatchNorm2d`.

torchvision, detectron2, DETR and others each have one, with equal attribute names and different ways to hold epsilon.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops.batch_norm import batch_norm_affine
from .sites import all_paths, replace

_VALUES = {"weight", "bias", "running_mean", "running_var"}
_NONE = sys.float_info.min  # stands for an epsilon of 0, which torch 2.11 refuses, and changes no sum
_EPSILONS = (1e-5, _NONE)  # of classes that write it into their forward
_AGREEMENT = 1e-10  # of float64 values of order 1


def as_batch_norm(module: nn.Module) -> nn.BatchNorm2d | None:
    """The `nn.BatchNorm2d` in eval mode that a frozen batch norm equals, or None if this module is none.

    The module is run: on a random map it must give what `nn.BatchNorm2d` gives with its values.
    """
    held = {**module._parameters, **module._buffers}
    if isinstance(module, _BatchNorm) or not set(held) >= _VALUES or set(held) - _VALUES - {"num_batches_tracked"}:
        return None
    values = {name: value for name in sorted(_VALUES) if isinstance(value := held[name], Tensor)}
    first = next(iter(values.values()), None)
    if first is None or len(values) < len(_VALUES) or first.is_meta:
        return None
    if first.dim() != 1 or any(v.shape != first.shape or not v.is_floating_point() for v in values.values()):
        return None
    own = getattr(module, "eps", None)
    for eps in (max(float(own), _NONE),) if isinstance(own, int | float) else _EPSILONS:
        norm = nn.BatchNorm2d(len(first), eps, device=first.device, dtype=first.dtype).eval().requires_grad_(False)
        for name, value in values.items():
            getattr(norm, name).data = value.detach()
        if _agree(module, norm):
            return norm
    return None


def _agree(module: nn.Module, norm: nn.BatchNorm2d) -> bool:
    twin, plain = (copy.deepcopy(each).double() for each in (module, norm))
    for hooks in (twin._forward_hooks, twin._forward_pre_hooks):
        hooks.clear()
    x = torch.randn(2, norm.num_features, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x.to(norm.weight.device)
    with torch.no_grad():
        expected = plain(x)
        try:
            found = twin(x)
        except Exception:  # a module of another kind, with the same names: it stays as it is
            return False
    close = isinstance(found, Tensor) and found.shape == expected.shape
    return close and bool((found - expected).abs().max() <= _AGREEMENT * expected.abs().max())


def norm_affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """`batch_norm_affine` of a BatchNorm in eval mode or of a frozen batch norm."""
    return batch_norm_affine(as_batch_norm(norm) or norm)


def is_norm(module: nn.Module) -> bool:
    """Is this a BatchNorm, frozen or not?"""
    return isinstance(module, _BatchNorm) or as_batch_norm(module) is not None


@contextmanager
def plain_norms(model: nn.Module) -> Iterator[None]:
    """Within this context, a `nn.BatchNorm2d` stands in the place of every frozen batch norm."""
    exchanged: list[tuple[tuple[str, ...], Any]] = []
    for module in [*model.modules()]:
        norm = as_batch_norm(module)
        paths = all_paths(model, module) if norm is not None else ()
        if norm is not None and "" not in paths:
            exchanged.append((paths, module))
            replace(model, paths, norm)
    try:
        yield
    finally:
        for paths, module in exchanged:
            replace(model, paths, module)
