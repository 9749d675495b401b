"""One layer without some of its channels, and how its parameters are taken from the whole layer's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...hooks import Hooks, writes
from ...surgery.macs import meta_copy
from ...surgery.pruning.narrow import Kept, narrow_module

Take = Callable[[Tensor], Tensor]
"""A part of a parameter, through which gradients flow back."""


def whole(tensor: Tensor) -> Tensor:
    """The parameter itself."""
    return tensor


def narrowed(layer: nn.Module, inputs: Kept, outputs: Kept) -> tuple[nn.Module, dict[str, Take] | None]:
    """The layer with these channels only (None: all), and what it takes of each parameter.

    The parameters of the narrow layer may have no memory: they are there for their shapes. Nothing can be taken (None)
    if narrowing changes values.
    """
    dims = _dims(layer, inputs, outputs)
    if dims is None:
        return _numbered(layer, inputs, outputs)
    narrow = meta_copy(layer)
    narrow_module(narrow, inputs, outputs)
    names = [name for name, _ in narrow.named_parameters()]
    return narrow, {name: _take_dims(dims[: layer.get_parameter(name).dim()]) for name in names}


def _dims(layer: nn.Module, inputs: Kept, outputs: Kept) -> tuple[Kept, ...] | None:
    """What stays of each dimension of a stock layer's parameters, None if that is not so simple."""
    if writes(layer, Hooks.narrow):
        return None
    if isinstance(layer, nn.Conv2d):
        if layer.groups == 1:
            return outputs, inputs
        return (outputs,) if layer.groups == layer.in_channels == layer.out_channels else None
    return (outputs, inputs) if isinstance(layer, nn.Linear) else (outputs,)


def _take_dims(dims: Sequence[Kept]) -> Take:
    """Slices, and a selection by index along dimensions of which other channels stay than the first."""
    indices = {d: torch.tensor(kept) for d, kept in enumerate(dims) if kept is not None and not _is_start(kept)}
    corner = tuple(slice(None) if kept is None or not _is_start(kept) else slice(len(kept)) for kept in dims)

    def take(tensor: Tensor) -> Tensor:
        part = tensor[corner]
        for dim, index in indices.items():
            part = part.index_select(dim, index.to(tensor.device))
        return part

    return take


def _is_start(kept: Sequence[int]) -> bool:
    return list(kept) == list(range(len(kept)))


def _numbered(layer: nn.Module, inputs: Kept, outputs: Kept) -> tuple[nn.Module, dict[str, Take] | None]:
    """A layer that narrows by its own rule: a copy whose parameters hold random numbers tells which are left."""
    narrow, marked = copy.deepcopy(layer), copy.deepcopy(layer).double().cpu()
    generator = torch.Generator().manual_seed(0)
    marks: dict[str, Tensor] = {}
    for name, parameter in marked.named_parameters():
        marks[name] = torch.rand(parameter.numel(), dtype=torch.float64, generator=generator).sort().values
        parameter.data = marks[name].view(parameter.shape).clone()
    for each in (narrow, marked):
        narrow_module(each, inputs, outputs)
    taken: dict[str, Take] = {}
    for name, parameter in marked.named_parameters():
        positions = _positions(parameter.detach(), marks.get(name, torch.empty(0)))
        if positions is None:
            return narrow, None
        taken[name] = _take_positions(positions)
    return narrow, taken


def _positions(values: Tensor, marks: Tensor) -> Tensor | None:
    """Where each value stands among the sorted marks, None if one stands nowhere or two stand at one place."""
    if not marks.numel():
        return None
    positions = torch.searchsorted(marks, values).clamp(max=marks.numel() - 1)
    found = torch.equal(marks[positions], values) and positions.unique().numel() == positions.numel()
    return positions if found else None


def _take_positions(positions: Tensor) -> Take:
    return lambda tensor: tensor.flatten()[positions.to(tensor.device)]
