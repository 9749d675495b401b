"""The order of a block for units that take signs of their input: BatchNorm - sign - convolution - (ReLU) - pool.

In a host's order, convolution - BatchNorm - ReLU, the next convolution would take the sign of a rectified map. That
sign is +1 everywhere (arXiv:1603.05279, section 3.3 and table 3). A unit that has a BatchNorm in front of its own sign
says so by a class method `normalizes_input(**options) -> bool`. The host's BatchNorm behind such a unit is then
redundant where only other such units read it. A swap removes it there: it has moved in front of the next sign. Where
anything else reads it (a residual sum, a full-precision layer), it stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.fx import Node

from ..errors import FusionError
from ..units.contract.registry import UnitSpec
from .absorb import Absorption
from .graph import BATCH_NORM, Reader, modules_around, source_of
from .inputs import Inputs
from .neighbours import RELUS, _with_plain_convolutions
from .sites import Site, held_elsewhere

_aten = torch.ops.aten
# The modules that may lie between one unit's convolution and the next unit's BatchNorm.
_PASSES = (
    *RELUS,
    _aten.max_pool2d.default,
    _aten.avg_pool2d.default,
    _aten.dropout.default,
    _aten.dropout_.default,
    _aten.feature_dropout.default,
    _aten.pad.default,
    _aten.clone.default,
    _aten.contiguous.default,
    _aten.detach.default,
)


def takes_signs(spec: UnitSpec) -> bool:
    """Does the unit take signs of its input, so that the order of its host's blocks matters?"""
    return spec.cls.normalizes_input() is not None


def plan_reorder(
    spec: UnitSpec, model: nn.Module, places: Sequence[Site], options: dict[str, Any], example: Inputs | None
) -> tuple[dict[str, Absorption], tuple[str, ...]]:
    """The host's BatchNorm that each unit makes redundant, by the site's path, and notes for the plan."""
    brings_norm = bool(spec.cls.normalizes_input(**options))
    unknown = "the host's BatchNorms stay behind the units" if brings_norm else "nothing is known of the units' inputs"
    if example is None:
        return {}, (f"{unknown}: no example input is known",)
    try:
        reader = Reader(_with_plain_convolutions(model).eval(), example)
    except FusionError as error:
        return {}, (f"{unknown}: {error}",)
    paths = {path for site in places for path in site.paths}
    if not brings_norm:
        return {}, _rectified(reader, paths)
    held = held_elsewhere(model)
    found: dict[str, Absorption] = {}
    staying: list[str] = []
    for conv, norm in _norms_behind(reader, paths).items():
        path = reader.owner(norm.args[3], "running_mean")
        if path is None:
            continue
        if _only_units_read(reader, spec, norm, paths) and id(model.get_submodule(path)) not in held:
            parameters = sum(p.numel() for p in model.get_submodule(path).parameters())
            site = next(site for site in places if conv in site.paths)
            found[site.path] = Absorption((path,), parameters=parameters)
        else:
            staying.append(path)
    if not staying:
        return found, ()
    text = f"{len(staying)} BatchNorms of the host stay behind their units, for a sum or another layer reads them: "
    return found, (text + _few(staying),)


def _norms_behind(reader: Reader, paths: Collection[str]) -> dict[str, Node]:
    """By convolution, the BatchNorm that is the only consumer of its output. Others are left out."""
    found = {}
    for node in reader.program.graph.nodes:
        if node.op == "call_function" and node.target is BATCH_NORM:
            source, _ = source_of(reader, node)
            if source in paths:
                found[source] = node
    return cast(dict[str, Node], found)


def _only_units_read(reader: Reader, spec: UnitSpec, norm: Node, paths: Collection[str]) -> bool:
    """Is this BatchNorm's output read only by units that normalise it again? Rectifiers and pools may lie between."""
    ends = list(_ends(reader, norm))
    return bool(ends) and all(reader.convolution(end) in paths or _in_unit(reader, spec, end) for end in ends)


def _ends(reader: Reader, node: Node) -> Iterator[Node]:
    """The operators that read a value, looking through the modules that a BatchNorm may be moved across."""
    for user in reader.readers(node):
        if user.op == "call_function" and user.target in _PASSES:
            yield from _ends(reader, user)
        else:
            yield user


def _in_unit(reader: Reader, spec: UnitSpec, node: Node) -> bool:
    """Does this operator belong to a unit that begins with its own BatchNorm?"""
    inside = any(type(reader.model.get_submodule(path)) is spec.cls for path in modules_around(reader, node))
    return inside and node.target is BATCH_NORM


def _rectified(reader: Reader, paths: Collection[str]) -> tuple[str, ...]:
    """A warning where signs would be taken of the output of a ReLU."""
    found: list[str] = []
    for node in reader.program.graph.nodes:
        path = reader.convolution(node)
        if path is None or path not in paths:
            continue
        source = node.args[0]
        while isinstance(source, Node) and source.target in _PASSES and source.target not in RELUS:
            source = source.args[0]
        if isinstance(source, Node) and source.target in RELUS:
            found.append(path)
    if not found:
        return ()
    text = f"{len(found)} units take the signs of a rectified map, which are +1 everywhere; order='norm_first' helps: "
    return (text + _few(found),)


def _few(paths: Sequence[str]) -> str:
    return ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
