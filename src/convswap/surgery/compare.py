"""Comparing the outputs of two models. Every proof of this package rests on this comparison.

Outputs are compared tensor by tensor, each known by its path in what the model returns (`['logits']`, `[0].boxes`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .inputs import Inputs
from .ties import match_ties
from .tree import tensors_in

Outputs = dict[str, Tensor]

# The relative difference that rounding alone may cause, by the precision that both models compute in.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}


def rounding(dtype: torch.dtype) -> float:
    """The largest relative difference that rounding explains: 1e-9 in float64, 1e-4 in float32, 2e-2 below."""
    return _ROUNDING.get(dtype, 2e-2)


def precision_of(model: nn.Module, inputs: Inputs) -> torch.dtype:
    """The precision a model computes in: that of its first floating-point parameter, or of the inputs."""
    held = (*model.parameters(), *(tensor for _, tensor in inputs.tensors))
    return next((t.dtype for t in held if t.is_floating_point()), torch.get_default_dtype())


def named_outputs(output: object) -> Outputs:
    """The tensors with at least one element in what a model returns, by path."""
    return {path: tensor for path, tensor in tensors_in(output) if tensor.numel()}


def outputs_of(model: nn.Module, inputs: Inputs) -> Outputs:
    """The tensors that a model returns, without gradients."""
    with torch.no_grad():
        return named_outputs(inputs.call(model))


def relative_difference(expected: Outputs, found: Outputs) -> float:
    """The largest difference, relative to the largest value. It is infinite if shapes or non-finite values differ."""
    return largest_difference(expected, found)[0]


def largest_difference(expected: Outputs, found: Outputs) -> tuple[float, str]:
    """`relative_difference`, and the path of the tensor that differs most.

    Lists of detections may differ in their order where scores tie.
    """
    for path in (*expected, *found):
        if path not in expected or path not in found or expected[path].shape != found[path].shape:
            return float("inf"), path
    worst = 0.0, ""
    found = match_ties(expected, found, {path: rounding(tensor.dtype) for path, tensor in expected.items()})
    for path, tensor in expected.items():
        worst = max(worst, (_difference(tensor, found[path]), path), key=lambda pair: pair[0])
    return worst


def _difference(a: Tensor, b: Tensor) -> float:
    a, b = (_dense(tensor) for tensor in (a, b))
    largest, error = a.abs().max().item(), (a - b).abs().max().item()
    if not (math.isfinite(largest) and math.isfinite(error)):
        finite = a.isfinite() & b.isfinite()
        if not torch.equal(a[~finite].nan_to_num(nan=0.5), b[~finite].nan_to_num(nan=0.5)):
            return float("inf")
        if not finite.any():
            return 0.0
        largest, error = a[finite].abs().max().item(), (a[finite] - b[finite]).abs().max().item()
    return error / largest if largest else error


def _dense(tensor: Tensor) -> Tensor:
    tensor = tensor.dequantize() if tensor.is_quantized else tensor
    tensor = tensor if tensor.layout == torch.strided else tensor.to_dense()
    return torch.view_as_real(tensor.to(torch.complex128)) if tensor.is_complex() else tensor.double()


def in_output(path: str) -> str:
    """Where in the output a difference stands, for a message: nothing if the output is one tensor."""
    return f" at output{path}" if path else ""
