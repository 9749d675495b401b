"""Keeping an existing optimizer correct when modules are exchanged in place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SurgeryError

Group = dict[str, Any]  # one entry of `optimizer.param_groups`


def check_optimizer(optimizer: torch.optim.Optimizer, modules: Iterable[nn.Module]) -> None:
    """Raise, before anything is edited, if the optimizer is not the one that trains these modules."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if any(p.requires_grad and id(p) not in held for module in modules for p in module.parameters()):
        raise SurgeryError("the optimizer does not hold the parameters of a replaced convolution; pass the right one")


def update_optimizer(
    optimizer: torch.optim.Optimizer, pairs: Iterable[tuple[nn.Module, nn.Module]], undecayed: frozenset[str]
) -> None:
    """Replace the old modules' parameters in the optimizer by the trainable parameters of the new ones.

    A new parameter joins the group of the old parameter of its name. If there is none, it joins the group of an old
    parameter of its kind (a weight, or a vector as in a BatchNorm), so parameters with and without weight decay stay
    apart. A new name in `undecayed` never joins a group with weight decay: it gets a copy of the group without it.

    Modules that a unit took over are paired with modules without parameters. They count as old modules of that unit.
    """
    for olds, new in _with_absorbed(pairs):
        by_name, by_kind = _groups_of(optimizer, olds)
        _remove(optimizer, olds)
        for name, parameter in new.named_parameters():
            if not parameter.requires_grad:
                continue
            similar = by_kind.get(_is_weight(parameter)) or by_name.get("weight") or optimizer.param_groups[0]
            never_decays = name not in by_name and name.rpartition(".")[2] in undecayed
            _add(optimizer, parameter, by_name.get(name) or similar, never_decays)


def _groups_of(optimizer: torch.optim.Optimizer, olds: list[nn.Module]) -> tuple[dict[str, Group], dict[bool, Group]]:
    """The groups of the old parameters: by name for the first module, and the first group of each kind for all."""
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    by_name: dict[str, Group] = {}
    by_kind: dict[bool, Group] = {}
    for old in olds:
        for name, parameter in old.named_parameters():
            group = group_of.get(id(parameter))
            if group is None:  # a frozen parameter may be in no group
                continue
            by_kind.setdefault(_is_weight(parameter), group)
            if old is olds[0]:
                by_name[name] = group
    return by_name, by_kind


def _is_weight(parameter: Tensor) -> bool:
    """Is this a weight rather than a vector, such as a bias or the scale of a BatchNorm?"""
    return parameter.dim() > 1


def _remove(optimizer: torch.optim.Optimizer, modules: list[nn.Module]) -> None:
    """Take the parameters of these modules out of every group, and drop their state."""
    gone = {p for module in modules for p in module.parameters()}
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if p not in gone]
    for parameter in gone:
        optimizer.state.pop(parameter, None)


def _add(optimizer: torch.optim.Optimizer, parameter: Tensor, group: Group, never_decays: bool) -> None:
    """Add a parameter to a group, or to a copy of the group without weight decay."""
    if never_decays and group.get("weight_decay"):
        options = {key: value for key, value in group.items() if key != "params"}
        optimizer.add_param_group({**options, "params": [parameter], "weight_decay": 0.0})
    else:
        group["params"].append(parameter)


def _with_absorbed(
    pairs: Iterable[tuple[nn.Module, nn.Module]],
) -> list[tuple[list[nn.Module], nn.Module]]:
    """Each new module with the old ones it replaces. A new module without parameters adds its old one to the last."""
    joined: list[tuple[list[nn.Module], nn.Module]] = []
    for old, new in pairs:
        if joined and next(new.parameters(), None) is None:
            joined[-1][0].append(old)
        else:
            joined.append(([old], new))
    return joined
