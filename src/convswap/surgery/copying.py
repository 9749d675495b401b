"""Faithful copies of a model: `copy.deepcopy` alone may lose modes, trainability or statistics."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..errors import ConvswapError, SurgeryError, first_line
from .compare import Outputs, in_output, largest_difference, outputs_of, precision_of, relative_difference, rounding
from .inputs import Inputs


def copy_model(model: nn.Module, error: type[ConvswapError] = SurgeryError, hint: str = "") -> nn.Module:
    """A deep copy that keeps every module's mode, every parameter's trainability and every tensor's value.

    A host may bring its own `__deepcopy__`. That of `torch.fx` graphs loses eval mode (pytorch/vision#8634).

    Args:
        model: the model to copy.
        error: the error to raise.
        hint: what to do instead, for the error's text.

    Raises:
        ConvswapError: the model cannot be copied, or its copy has other modules or tensors, or shares some with it.
    """
    try:
        twin = copy.deepcopy(model, _computed_tensors(model))
    except Exception as problem:
        raise error(f"the model cannot be copied ({first_line(problem)}){hint}") from problem
    modules = dict(twin.named_modules(remove_duplicate=False))
    for path, module in model.named_modules(remove_duplicate=False):
        twins = modules.get(path)
        if twins is None or (type(twins) is not type(module) and next(module.children(), None) is None):
            raise error(f"a copy of the model has another module {path!r}: its own __deepcopy__ is at fault{hint}")
        twins.training = module.training
    theirs = _tensors(twin)
    for name, tensor in _tensors(model).items():
        other = theirs.get(name)
        if other is None or other.shape != tensor.shape or other.dtype != tensor.dtype:
            raise error(f"a copy of the model has another tensor {name!r}: its own __deepcopy__ is at fault{hint}")
        if other is tensor and tensor.numel():
            raise error(f"a copy of the model shares {name!r} with it: its own __deepcopy__ is at fault{hint}")
        _carry(tensor, other)
    return twin


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]
        if not is_lazy(tensor)
    }


def _carry(tensor: Tensor, other: Tensor) -> None:
    """Give a copied tensor the value and trainability of the one it stands for."""
    if isinstance(tensor, nn.Parameter):
        other.requires_grad_(tensor.requires_grad)
    if not (tensor.is_meta or other.is_meta or torch.equal(tensor, other)):
        with torch.no_grad():
            other.copy_(tensor)


def _computed_tensors(model: nn.Module) -> dict[int, Any]:
    """A memo for `copy.deepcopy`, which refuses tensors with a history, such as old weight_norm and pruning leave."""
    found = (value for module in model.modules() for value in module.__dict__.values())
    return {id(t): t.detach().clone() for t in found if isinstance(t, Tensor) and not t.is_leaf}


def check_copy(
    expected: Outputs, model: nn.Module, twin: nn.Module, inputs: Inputs, error: type[ConvswapError]
) -> None:
    """Raise unless a copy computes what the given model computed (`expected`), in the model's own precision.

    Nothing is raised for a model that differs from itself in a second pass, as one that draws random numbers does.
    """
    dtype = precision_of(model, inputs)
    inputs, limit = inputs.cast(dtype), rounding(dtype)
    difference, path = largest_difference(expected, outputs_of(twin, inputs))
    if difference <= limit or relative_difference(expected, outputs_of(model, inputs)) > limit:
        return
    raise error(
        f"a copy of the model computes another function (its output differs by {difference:.1e}{in_output(path)}, "
        "relative), so nothing can be proven on it: state that is at fault which "
        f"{type(model).__name__}.__deepcopy__ does not carry over"
    )
