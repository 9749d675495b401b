"""Physical removal: layers that keep some of their channels. Plain data in, so a saved model is rebuilt from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from ...errors import SurgeryError
from ...hooks import Hooks, writes
from ..sites import is_unit

Kept = Sequence[int] | None
Narrowing = tuple[str, list[int] | None, list[int] | None]
"""A module's path, and the input and output channels that it keeps (None: all)."""


def why_not_narrow(module: nn.Module) -> str | None:
    """Why this module cannot lose channels, or None."""
    if writes(module, Hooks.narrow):
        return None
    if is_unit(module):
        return f"is a {type(module).__name__}, which cannot be narrowed"
    if parametrize.is_parametrized(module):
        return f"is a parametrised {type(module).__name__}"
    if any(hasattr(module, f"weight_{kind}") for kind in ("g", "orig")):
        return f"is a {type(module).__name__} whose weight is computed"
    if not isinstance(module, nn.Conv2d | nn.Linear | _BatchNorm | nn.PReLU):
        return f"is a {type(module).__name__}, whose channels do not stand alone"
    if isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels != module.out_channels:
        return "is a depthwise convolution with several outputs a channel"
    return None


def perform_prune(model: nn.Module, record: dict[str, Any]) -> nn.Module:
    """Carry out a recorded pruning in place. The values of the weights are kept where channels are."""
    for path, inputs, outputs in record["narrow"]:
        narrow_module(model.get_submodule(path), inputs, outputs)
    return model


def narrow_module(module: nn.Module, inputs: Kept, outputs: Kept) -> None:
    """Keep only these input and output channels of a layer, in place. For a batch norm or depthwise, both are equal.

    Raises:
        SurgeryError: the layer cannot be narrowed, or its groups would differ in size.
    """
    reason = why_not_narrow(module)
    if reason is not None:
        raise SurgeryError(f"the module {reason}")
    if writes(module, Hooks.narrow):
        module.narrow(inputs, outputs)  # type: ignore[operator]
    elif isinstance(module, nn.Conv2d):
        narrow_convolution(module, inputs, outputs)
    elif isinstance(module, nn.Linear):
        module.in_features = _width(inputs, module.in_features)
        module.out_features = _width(outputs, module.out_features)
        _select(module, "weight", (outputs, inputs))
        _select(module, "bias", (outputs,))
    elif isinstance(module, _BatchNorm):
        module.num_features = _width(outputs, module.num_features)
        for name in ("weight", "bias", "running_mean", "running_var"):
            _select(module, name, (outputs,))
    elif isinstance(module, nn.PReLU) and module.num_parameters > 1:
        module.num_parameters = _width(outputs, module.num_parameters)
        _select(module, "weight", (outputs,))


def narrow_convolution(conv: nn.Conv2d, inputs: Kept, outputs: Kept) -> None:
    """Keep some channels of a convolution, in place: its `weight` (out, in / groups, kH, kW) and `bias` (out,)."""
    if 1 < conv.groups == conv.in_channels == conv.out_channels:
        conv.groups = _width(outputs, conv.groups)
        inside = None
        conv.in_channels = _width(outputs, conv.in_channels)
    else:
        inside = None if inputs is None else _inside_groups(inputs, conv.in_channels, conv.groups)
        if outputs is not None:
            _inside_groups(outputs, conv.out_channels, conv.groups)
        conv.in_channels = _width(inputs, conv.in_channels)
    conv.out_channels = _width(outputs, conv.out_channels)
    _select(conv, "weight", (outputs, inside))
    _select(conv, "bias", (outputs,))


def _inside_groups(kept: Sequence[int], channels: int, groups: int) -> list[int]:
    """The kept positions in each group, which must be the same ones."""
    each = channels // groups
    positions = [[c % each for c in kept if c // each == group] for group in range(groups)]
    if any(other != positions[0] for other in positions):
        raise SurgeryError(f"{groups} groups of a convolution would keep different channels")
    return positions[0]


def _width(kept: Kept, before: int) -> int:
    return before if kept is None else len(kept)


def _select(module: nn.Module, name: str, kept: Sequence[Kept]) -> None:
    """Keep these indices of a parameter or buffer, dimension by dimension."""
    old = getattr(module, name, None)
    if not isinstance(old, Tensor):
        return
    new = old.detach()
    for dim, indices in enumerate(kept):
        if indices is not None:
            new = new.index_select(dim, torch.tensor(indices, dtype=torch.long, device=new.device))
    if isinstance(old, nn.Parameter):
        setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad))
    else:
        setattr(module, name, new)
