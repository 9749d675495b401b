"""The layers of a network in their order, for learning rates that fall from layer to layer."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ..units import spec_of


def modules_and_units(model: nn.Module) -> Iterator[tuple[nn.Module, bool]]:
    """Every module in definition order, and whether it is a unit. What is inside a unit is left out."""
    inside: set[int] = set()
    for module in model.modules():
        if id(module) not in inside:
            is_unit = spec_of(module) is not None
            if is_unit:
                inside |= {id(part) for part in module.modules()}
            yield module, is_unit


def layer_scales(model: nn.Module, decay: float) -> dict[int, float]:
    """Factors of the learning rate by `id()` of each parameter: `decay^(L - 1 - l)` for layer l of L, from 0.

    A layer is a module with a parameter of two or more dimensions of its own (a convolution, a linear layer), or a unit
    as a whole. Norms and other modules without such a parameter belong to the layer before them. Layers count in
    definition order, which for a residual block has its shortcut last. A shared parameter belongs to its first place.
    """
    if decay == 1.0:
        return {}
    layer_of: dict[int, int] = {}
    layer = -1
    for module, is_unit in modules_and_units(model):
        own = list(module.parameters(recurse=is_unit))
        layer += bool(own) and (is_unit or any(parameter.ndim > 1 for parameter in own))
        for parameter in own:
            layer_of.setdefault(id(parameter), max(layer, 0))
    return {key: decay ** (max(layer, 0) - place) for key, place in layer_of.items()}
