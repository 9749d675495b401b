"""Building the unit for one place in a model: the checks, the construction, the row of the plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..ops.memory_format import is_channels_last
from ..units.contract.block import BlockUnit, Place
from ..units.contract.feature import FeatureUnit
from ..units.contract.geometry import Geometry
from ..units.contract.options import options_of, refuse_unknown
from ..units.contract.registry import UnitSpec, spec_of
from ..units.contract.weight import WeightUnit
from .absorb import Absorption
from .blocks import BlockSite
from .macs import count_macs
from .observe import Observation
from .padding import read_padding
from .plan import Replacement
from .sites import Site, carry_padding, is_plain, is_unit, outside_the_tree, why_not_plain


def check_options(spec: UnitSpec, options: dict[str, Any]) -> None:
    """Raise a `UsageError` for an option the unit does not have. It names the nearest option of the unit."""
    refuse_unknown(f"unit {spec.name!r}", options_of(spec.cls), options)


def build_unit(
    spec: UnitSpec, module: nn.Module, start: str, options: dict[str, Any], place: Place | None = None
) -> nn.Module:
    """The unit that takes a module's place, in the module's memory format. A block unit needs `place`."""
    if place is not None:
        block = cast(type[BlockUnit], spec.cls).at(place, **options)
        _like(block, [p for p in module.parameters() if p.dim() == 4])
        # a block that was entirely frozen stays frozen, as a convolution does
        return block.requires_grad_(any(p.requires_grad for p in module.parameters()))
    source = as_convolution(module)
    builder = cast(Any, spec.cls).from_conv if start == "warm" else cast(Any, spec.cls).fresh_like
    unit = cast(nn.Module, builder(source, **options))
    _like(unit, [source.weight])
    return unit


def as_convolution(module: nn.Module) -> nn.Conv2d:
    """The module itself if it is a convolution, or the convolution that the unit equals.

    For a convolution with a padding of its own, the convolution behind that padding, with the same parameters.
    """
    if is_plain(module):
        return cast(nn.Conv2d, module)
    padded = None if is_unit(module) else read_padding(module)
    if padded is None:
        return cast(WeightUnit, module).fuse()
    conv = nn.Conv2d(**padded.geometry.arguments(), device="meta")
    conv._parameters.update(module._parameters)
    return conv.train(module.training)


def _like(unit: nn.Module, weights: Sequence[Tensor]) -> None:
    """Take over channels_last where the weights have it and it differs from the ordinary format."""
    if any(map(is_channels_last, weights)):
        unit.to(memory_format=torch.channels_last)


def why_not(spec: UnitSpec, site: Site, options: dict[str, Any], tied: set[int], held: dict[int, str]) -> str | None:
    """Why the unit cannot stand at a site, or None."""
    module = site.module
    if type(module) is spec.cls and spec.name != "conv" and not options:
        return f"it already is a {spec.name}"
    whole = isinstance(site, BlockSite) and site.place.kind != "stem"
    reason = (_why_not_block if whole else _why_not_convolution)(module, tied)
    if reason is not None:
        return reason
    if id(module) in held:
        return outside_the_tree(held[id(module)])
    if isinstance(site, BlockSite):
        return cast(type[BlockUnit], spec.cls).supports(site.place, **options)
    source = as_convolution(module)
    return cast(Any, spec.cls).supports(source, **options)


def _why_not_convolution(module: nn.Module, tied: set[int]) -> str | None:
    present = spec_of(module)
    if (present is None and isinstance(module, FeatureUnit)) or (present is not None and present.fusion != "conv"):
        name = present.name if present else type(module).__name__
        return f"it is a {name} unit, which equals no single convolution"
    reason = why_not_plain(module)
    if reason is None and id(module.weight) in tied:
        return "its weight is tied to another module's"
    return reason


def _why_not_block(module: nn.Module, tied: set[int]) -> str | None:
    if "forward" in module.__dict__:
        return "its forward was replaced on the object"
    own = {id(parameter) for inner in module.modules() for parameter in inner.parameters(recurse=False)}
    return "a parameter of it is tied to another module's" if own & tied else None


def is_frozen(module: nn.Module) -> bool:
    """Would a unit in this place never train? This holds where the weight, or the whole block, is frozen."""
    if isinstance(module, nn.Conv2d | FeatureUnit):
        return not cast(Tensor, module.weight).requires_grad
    return not any(parameter.requires_grad for parameter in module.parameters())


def tied_parameters(model: nn.Module) -> set[int]:
    """Ids of parameters that more than one module object holds."""
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(id(module))
    return {key for key, holders in owners.items() if len(holders) > 1}


def replacement_row(
    spec: UnitSpec,
    site: Site,
    start: str,
    options: dict[str, Any],
    absorbed: Absorption,
    seen: Observation,
    images: int | None,
) -> Replacement:
    """One row of a plan. `images` is the batch size of the example, None without one."""
    place = site.place if isinstance(site, BlockSite) else None
    with torch.random.fork_rng(devices=[]):  # building the unit draws random numbers; a plan must not
        new = build_unit(spec, site.module, start, options | absorbed.options, place)
    if place is None:
        carry_padding(site.module, new)
    before = after = None
    if images is not None:
        shapes = seen.inputs.get(id(site.module), [])
        gone = (site.module, *absorbed.convolutions)
        before = sum(_macs(module, seen.inputs.get(id(module), []), images) for module in gone)
        after = _macs(new, shapes, images)
    kind = start if start == "fresh" else _declared_start(spec, site, options, absorbed, new)
    return Replacement(
        site.path,
        site.paths[1:],
        Geometry.of(site.module).describe() if place is None else place.describe(),
        spec.name,
        kind,
        sum(p.numel() for p in site.module.parameters()) + absorbed.parameters,
        sum(p.numel() for p in new.parameters()),
        before,
        after,
        dict(absorbed.options),
        absorbed.paths,
        None if place is None else {**place.arguments(), "depth": place.depth, "kind": place.kind},
        _weight_error(site.module, new) if kind == "approximate" and spec.kind == "weight" else None,
    )


@torch.no_grad()
def _weight_error(module: nn.Module, new: nn.Module) -> float | None:
    """The relative distance between the weights that two modules convolve with, or None if one has no such weight."""
    old, fused = (as_convolution(m).weight.double() for m in (module, new))
    norm = old.norm()
    return None if old.is_meta or not norm else float((old - fused).norm() / norm)


def _declared_start(spec: UnitSpec, site: Site, options: dict[str, Any], absorbed: Absorption, new: nn.Module) -> str:
    module = site.module
    # a block unit starts fresh whatever it replaces, and has no convolution to compare with
    given = options | absorbed.options
    conv = isinstance(module, nn.Conv2d) and not is_unit(module)
    source = cast(nn.Conv2d, as_convolution(module) if conv else module)
    refined = None if spec.kind == "block" else spec.cls.warm_start_for(source, **given)
    declared = refined or spec.warm_start
    if absorbed.exact and spec.warm_start != "none":
        return "exact"
    if declared == "exact" and spec.kind == "weight" and conv and not cast(Tensor, module.weight).is_meta:
        # in half precision the unit's own weights can be rounded far more coarsely than the convolution's
        old, fused = cast(Tensor, module.weight).double(), cast(WeightUnit, new).fuse().weight.double()
        if (old - fused).abs().max() > 2e-3 * old.abs().max():
            return "approximate"
    return declared


def _macs(module: nn.Module, shapes: list[tuple[int, ...]], batch: int) -> int:
    """MACs per image of the example, over all calls of the module. One call may see several windows of one image."""
    tensors = [*module.parameters(), *module.buffers()]  # a unit of constant kernels has no parameter
    dtype = next(t.dtype for t in tensors if t.is_floating_point())
    batches = [shape if len(shape) > 3 else (1, *shape) for shape in shapes]
    return sum(
        count_macs(module, torch.empty((1, *shape[1:]), device="meta", dtype=dtype)) * shape[0] // batch
        for shape in batches
    )
