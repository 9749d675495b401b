"""Comparing the outputs of two models. Every proof of this package rests on this comparison."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

# The relative difference that rounding alone may cause, by the precision that both models compute in.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}


def rounding(dtype: torch.dtype) -> float:
    """The largest relative difference that rounding explains: 1e-9 in float64, 1e-4 in float32, 2e-2 below."""
    return _ROUNDING.get(dtype, 2e-2)


def precision_of(model: nn.Module, example: Tensor) -> torch.dtype:
    """The precision a model computes in: that of its first floating-point parameter, or of the example."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), example.dtype)


def tensors_of(output: Any) -> list[Tensor]:
    """All tensors with at least one element in a model's output, however nested."""
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        output = [getattr(output, field.name) for field in dataclasses.fields(output)]
    return [leaf for leaf in torch.utils._pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.numel()]


def outputs_of(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The tensors a model returns for x, without gradients. x stays as it is, even if the model works in place."""
    with torch.no_grad():
        return tensors_of(model(x.clone()))


def relative_difference(expected: list[Tensor], found: list[Tensor]) -> float:
    """The largest difference, relative to the largest value. It is infinite if shapes or non-finite values differ."""
    if [t.shape for t in expected] != [t.shape for t in found]:
        return float("inf")
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.is_complex() or b.is_complex():
            a, b = (torch.view_as_real(t.to(torch.complex128)) for t in (a, b))
        a, b = a.double(), b.double()
        finite = a.isfinite() & b.isfinite()
        if not torch.equal(a[~finite].nan_to_num(nan=0.5), b[~finite].nan_to_num(nan=0.5)):
            return float("inf")
        if finite.any():
            largest, error = a[finite].abs().max().item(), (a[finite] - b[finite]).abs().max().item()
            worst = max(worst, error / largest if largest else error)
    return worst
