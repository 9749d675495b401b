"""Which parameters decay: weight decay is for the weights of convolutions and linear layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..units import spec_of

NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
)


def undecayed_names(model: nn.Module) -> set[str]:
    """Full names of the parameters that weight decay must leave alone.

    Those are: biases and all other parameters with at most one dimension, the parameters of norms, what a unit's
    registry row lists in `no_weight_decay`, and what the model's own `no_weight_decay()` lists, as in timm.
    """
    names: set[str] = set()
    own = getattr(model, "no_weight_decay", None)
    if callable(own):
        names.update(own())
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        spec = spec_of(module)
        excluded = spec.no_weight_decay if spec is not None else frozenset()
        is_norm = isinstance(module, NORMS)
        for name, parameter in module.named_parameters(recurse=bool(excluded)):
            last = name.rpartition(".")[2]
            direct = last == name
            if last in excluded or (direct and (is_norm or parameter.ndim <= 1 or name == "bias")):
                names.add(prefix + name)
    return names


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for an optimizer, decayed and not, without frozen parameters; an empty group is left out.

    A parameter used in several places is listed once, and is not decayed if any of them excludes it.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    excluded = {id(named[name]) for name in undecayed_names(model) if name in named}
    unique = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in unique if id(p) not in excluded], "weight_decay": weight_decay},
        {"params": [p for p in unique if id(p) in excluded], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
