"""An optimizer that already holds a model's parameters, kept true when modules are exchanged in place."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ..errors import SurgeryError


def check_optimizer(optimizer: torch.optim.Optimizer, modules: Iterable[nn.Module]) -> None:
    """Raise before anything is edited if the optimizer is not the one that trains these modules."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if any(p.requires_grad and id(p) not in held for module in modules for p in module.parameters()):
        raise SurgeryError("the optimizer does not hold the parameters of a replaced convolution; pass the right one")


def update_optimizer(
    optimizer: torch.optim.Optimizer, pairs: Iterable[tuple[nn.Module, nn.Module]], undecayed: frozenset[str]
) -> None:
    """Give each trainable parameter of a unit the group of the old one of its name, else a fitting one.

    Fitting is the group of an old parameter of its kind (a weight; or a vector, as of a BatchNorm), so that what was
    decayed apart stays apart. The modules that a unit took over, paired with ones without parameters, follow it.
    """
    for olds, new in _with_absorbed(pairs):
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        held = [(name, p, groups[id(p)]) for old in olds for name, p in old.named_parameters() if id(p) in groups]
        own = {id(p) for p in olds[0].parameters()}
        by_name = {name: group for name, p, group in held if id(p) in own}
        by_kind = {p.dim() > 1: group for _, p, group in reversed(held)}
        gone = {id(p) for old in olds for p in old.parameters()}
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in gone]
        for p in (p for old in olds for p in old.parameters()):
            optimizer.state.pop(p, None)
        for name, p in new.named_parameters():
            if not p.requires_grad:
                continue
            home = by_name.get(name) or by_kind.get(p.dim() > 1) or by_name.get("weight") or optimizer.param_groups[0]
            last = name.rpartition(".")[2]
            if name not in by_name and last in undecayed and home.get("weight_decay"):
                options = {key: value for key, value in home.items() if key != "params"}
                optimizer.add_param_group({**options, "params": [p], "weight_decay": 0.0})
            else:
                home["params"].append(p)


def _with_absorbed(
    pairs: Iterable[tuple[nn.Module, nn.Module]],
) -> list[tuple[list[nn.Module], nn.Module]]:
    """Each new module with the old ones it stands for: what has no parameters of its own joins the one before."""
    joined: list[tuple[list[nn.Module], nn.Module]] = []
    for old, new in pairs:
        if joined and next(new.parameters(), None) is None:
            joined[-1][0].append(old)
        else:
            joined.append(([old], new))
    return joined
