"""What a unit takes over from its host: the BatchNorm after it, the ReLU before it.

A BatchNorm is taken over only if it is the only consumer of the replaced convolution's output. A unit that brings its
own BatchNorm or ReLU says so by the hooks `absorbs_batch_norm`, `start_from_batch_norm`, `absorbs_relu_before` and
`relu_follows_host`, see `convswap.hooks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import FusionError
from ..hooks import Hooks
from ..units.contract.registry import UnitSpec
from .graph import after_norm
from .inputs import Inputs
from .neighbours import Neighbourhood, Neighbours, read_neighbourhood
from .sites import Site, all_paths, carry_hooks, held_elsewhere, replace
from .stems import StemSite


@dataclass(frozen=True)
class Absorption:
    """What one unit takes over.

    Attributes:
        paths: host modules that are removed.
        options: options of the unit that follow from the modules around it.
        parameters: number of parameters removed with these modules.
        convolutions: the convolutions among these modules.
        exact: whether a warm start keeps the model's function here, although the unit declares less. It does where the
            input is rectified.
    """

    paths: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    parameters: int = 0
    convolutions: tuple[nn.Conv2d, ...] = ()
    exact: bool = False


def wants_neighbours(spec: UnitSpec) -> bool:
    """Does the unit take over anything from its host?"""
    cls = spec.cls
    return cls.absorbs_batch_norm or cls.absorbs_relu_before or cls.relu_follows_host


def plan_absorption(
    spec: UnitSpec, model: nn.Module, places: Sequence[Site], options: dict[str, Any], example: Inputs | None
) -> tuple[dict[str, Absorption], tuple[str, ...]]:
    """What each unit takes over, by the site's path, and notes on what stays with the host."""
    stems = {site.path: _gone(model, site.others) for site in places if isinstance(site, StemSite)}
    if stems or not wants_neighbours(spec):
        return stems, ()
    stay = "the host's own BatchNorm and ReLU stay beside the units: "
    if example is None:
        return {}, (f"{stay}no example input is known",)
    try:
        around = read_neighbourhood(model, example)
    except FusionError as error:
        return {}, (f"{stay}{error}",)
    found = _absorptions(spec, model, places, options, around)
    without = [path for path, absorbed in found.items() if not _takes_norm(model, absorbed)]
    if not without or not spec.cls.absorbs_batch_norm:
        return found, ()
    few = ", ".join(without[:3]) + (", ..." if len(without) > 3 else "")
    return found, (f"{len(without)} of {len(found)} units found no BatchNorm of the host to take over: {few}",)


def _takes_norm(model: nn.Module, absorbed: Absorption) -> bool:
    return any(isinstance(model.get_submodule(path), _BatchNorm) for path in absorbed.paths)


def _gone(model: nn.Module, paths: tuple[str, ...], **rest: Any) -> Absorption:
    modules = [model.get_submodule(path) for path in paths]
    parameters = sum(p.numel() for module in modules for p in module.parameters())
    convolutions = tuple(module for module in modules if isinstance(module, nn.Conv2d))
    return Absorption(paths, parameters=parameters, convolutions=convolutions, **rest)


def _absorptions(
    spec: UnitSpec, model: nn.Module, places: Sequence[Site], options: dict[str, Any], around: Neighbourhood
) -> dict[str, Absorption]:
    relus = around.removable_relus({path for site in places for path in site.paths})
    takes_norm, takes_relu = spec.cls.absorbs_batch_norm, spec.cls.absorbs_relu_before
    held = held_elsewhere(model)
    found: dict[str, Absorption] = {}
    for site in places:
        beside = next((around.of[path] for path in site.paths if path in around.of), Neighbours())
        paths: list[str] = []
        if takes_norm and beside.batch_norm is not None:
            paths.append(beside.batch_norm)
        if takes_relu and beside.relu_module in relus and beside.relu_module is not None:
            paths.append(beside.relu_module)
        paths = [path for path in paths if id(model.get_submodule(path)) not in held]
        own = {"relu": beside.relu_follows} if spec.cls.relu_follows_host and "relu" not in options else {}
        found[site.path] = _gone(model, tuple(paths), options=own, exact=takes_relu and beside.rectified)
    return found


def take_out(model: nn.Module, path: str, heir: nn.Module, *, warm: bool) -> tuple[nn.Module, nn.Module]:
    """Remove a module and put what remains of it in its place. Returns the old module and the new one.

    The unit's own BatchNorms (those of `heir`) take the host's eps, momentum, mode and trainability. A unit that starts
    warm also takes over, by `start_from_batch_norm`, what the host's BatchNorm has learned.
    """
    old = model.get_submodule(path)
    if isinstance(old, _BatchNorm):
        for norm in heir.modules():
            if isinstance(norm, _BatchNorm):
                norm.eps, norm.momentum = old.eps, old.momentum
                norm.train(old.training)
                if old.weight is not None and not old.weight.requires_grad:
                    norm.requires_grad_(False)
        if warm and isinstance(heir, Hooks):
            heir.start_from_batch_norm(old)
    rest = after_norm(old)
    new = nn.Identity() if rest is None else rest
    if rest is None:
        carry_hooks(old, new)
    replace(model, all_paths(model, old), new)
    return old, new.train(old.training)
