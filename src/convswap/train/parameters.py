"""How recipes treat single parameters: which of them decay, their learning rates and their bounds.

Weight decay is for the weights of convolutions and linear layers. Training calls two hooks of `convswap.hooks.Hooks`:
`constrain_()`, which puts a module's parameters back into bounds, and `learning_rate_scale()`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from ..errors import UsageError
from ..hooks import Hooks, writes
from ..units import spec_of
from .layers import layer_scales

NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
)


def undecayed_names(model: nn.Module, *, decay_all: bool = False) -> set[str]:
    """Full names of the parameters that weight decay must leave alone.

    These are those that a unit's registry row lists in `no_weight_decay`, and those that the model's own
    `no_weight_decay()` lists, as in timm. Unless `decay_all`, they are also biases and all other parameters with at
    most one dimension, and the parameters of norms.
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
            direct = last == name and not decay_all
            if last in excluded or (direct and (is_norm or parameter.ndim <= 1 or name == "bias")):
                names.add(prefix + name)
    return names


def learning_rate_scales(model: nn.Module) -> dict[str, float]:
    """Factors of the learning rate by full parameter name, from every `Hooks` module's `learning_rate_scale()`.

    Raises:
        UsageError: a factor is not a number above 0, there is no such parameter, or a module that does not inherit
            `Hooks` has a method of that name.
    """
    scales: dict[str, float] = {}
    for path, module in model.named_modules():
        if not _has_hook(module, path, Hooks.learning_rate_scale):
            continue
        own = dict(module.named_parameters(remove_duplicate=False))
        for name, factor in cast(Hooks, module).learning_rate_scale().items():
            if name not in own or not (math.isfinite(factor) and factor > 0):
                raise UsageError(
                    f"learning_rate_scale() of {path or 'the model'} gives {name!r}: {factor!r}; it must map names of "
                    "its parameters to numbers above 0"
                )
            scales[f"{path}.{name}" if path else name] = float(factor)
    return scales


def _has_hook(module: nn.Module, path: str, hook: Callable[..., Any]) -> bool:
    """Does the module override this hook? Raise for a method of that name without `Hooks`: it would never be called."""
    name = hook.__name__
    if not isinstance(module, Hooks) and hasattr(type(module), name):
        raise UsageError(
            f"{path or 'the model'} is a {type(module).__name__} with {name}(), but not a convswap.hooks.Hooks; "
            "inherit Hooks before nn.Module, or training does not call it"
        )
    return writes(module, hook)


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    decay_all: bool = False,
    layer_decay: float = 1.0,
    norm_bias_scale: float = 1.0,
) -> list[dict[str, Any]]:
    """Groups for an optimizer, with and without decay. Frozen parameters and empty groups are left out.

    A parameter used in several places is listed once, and is not decayed if any of these places excludes it. Parameters
    whose modules scale their learning rate have groups of their own, with the factor under timm's key `"lr_scale"`. The
    code that sets the learning rate must multiply by this factor.

    Args:
        model: the network.
        weight_decay: of the decayed groups.
        decay_all: see `undecayed_names`.
        layer_decay: a further factor, see `layer_scales`.
        norm_bias_scale: a further factor for the biases of norms.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    excluded = {id(named[name]) for name in undecayed_names(model, decay_all=decay_all) if name in named}
    scales = {id(named[name]): factor for name, factor in learning_rate_scales(model).items()}
    for factors in (layer_scales(model, layer_decay), _norm_biases(model, norm_bias_scale)):
        scales |= {key: scales.get(key, 1.0) * factor for key, factor in factors.items()}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            key = (scales.get(id(parameter), 1.0), id(parameter) not in excluded)
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": members, "weight_decay": weight_decay if decayed else 0.0}
        | ({} if scale == 1.0 else {"lr_scale": scale})
        for (scale, decayed), members in groups.items()
        if members
    ]


def _norm_biases(model: nn.Module, scale: float) -> dict[int, float]:
    biases = (getattr(module, "bias", None) for module in model.modules() if isinstance(module, NORMS))
    return {id(bias): scale for bias in biases if isinstance(bias, nn.Parameter)} if scale != 1.0 else {}


def constrain(model: nn.Module) -> None:
    """Let every `Hooks` module with a `constrain_()` of its own put its parameters back into bounds.

    In a training loop of your own, call it once before the first step and after each optimizer step, on the module
    itself or on its DDP or compiled wrapper.
    """
    constraint_of(model)()


def constraint_of(model: nn.Module) -> Callable[[], None]:
    """`constrain(model)` for every step. The modules are looked up once, since walking a large model takes 0.5 ms.

    A module whose parameters are all frozen is left as it is.
    """
    bounded = [
        cast(Hooks, m)
        for path, m in model.named_modules()
        if _has_hook(m, path, Hooks.constrain_) and not _is_frozen(m)
    ]

    @torch.no_grad()
    def apply() -> None:
        for module in bounded:
            module.constrain_()

    return apply


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
