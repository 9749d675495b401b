"""Which places of a model get a unit, which stay as they are and why, and the rows of the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import nn

from ..errors import SurgeryError, UsageError
from ..units.contract.registry import UnitSpec
from .absorb import Absorption, plan_absorption
from .blocks import BlockSite, find_blocks, find_stages
from .build import is_frozen, replacement_row, tied_parameters, why_not
from .flow import FlowReader
from .inputs import Inputs
from .observe import Observation
from .plan import Replacement, Skip
from .reorder import plan_reorder, takes_signs
from .selection import Where, asks_for_flow, none_selected, select_blocks, select_sites
from .sites import Site, held_elsewhere, other_convolutions
from .stems import find_stem

_FINDERS: dict[str, Callable[[nn.Module, Inputs], Sequence[BlockSite]]] = {
    "block": find_blocks,
    "stage": find_stages,
    "stem": find_stem,
}
_WHAT = {
    "block": "residual block",
    "stage": "stage (a module of nothing but residual blocks)",
    "stem": "stem (first convolution, BatchNorm or not, ReLU, max-pool: modules that only the next one reads)",
}


def choose_sites(
    spec: UnitSpec, model: nn.Module, where: Where, described: str, example: Inputs | None, reader: FlowReader
) -> Sequence[Site]:
    """The sites that `where` means: convolutions, or for a block unit residual blocks or stages."""
    if spec.replaces == "convolution":
        chosen: Sequence[Site] = select_sites(model, where, reader, default=where is spec.default_where)
        if not chosen:
            default = f", the places {spec.name!r} takes by default," if where is spec.default_where else ""
            raise none_selected(model, f"where={described!r}{default}", _left_alone(model))
        return chosen
    if example is None:
        raise UsageError(
            f"unit {spec.name!r} replaces {spec.replaces}s, which are found in a forward pass: pass example_input=, "
            "a tensor (N, C, H, W)"
        )
    found = _FINDERS[spec.replaces](model, example)
    if not found:
        raise UsageError(f"unit {spec.name!r} replaces {spec.replaces}s, but the model has no {_WHAT[spec.replaces]}")
    blocks = select_blocks(found, where)
    if not blocks:
        paths = ", ".join(f"{site.path} ({site.place.describe()})" for site in found[:4])
        default = f", the places {spec.name!r} takes by default," if where is spec.default_where else ""
        raise UsageError(
            f"where={described!r}{default} matches none of the model's {len(found)} {spec.replaces}s: {paths}, ...; "
            "choose among them by where="
        )
    return blocks


def sort_out(
    spec: UnitSpec,
    model: nn.Module,
    chosen: Sequence[Site],
    options: dict[str, Any],
    seen: Observation,
    example: Inputs | None,
) -> tuple[list[Site], list[Skip]]:
    """The sites that can take the unit, and the others with the reason.

    Raises:
        SurgeryError: no site can.
    """
    tied, held = tied_parameters(model), held_elsewhere(model)
    places: list[Site] = []
    skipped: list[Skip] = []
    for site in chosen:
        reason = why_not(spec, site, options, tied, held)
        reader = seen.readers.get(site.path)
        if reason is None and example is not None and id(site.module) not in seen.inputs:
            reason = "a pass over the example does not call it" + (
                f"; its weight is read in {reader}" if reader else ""
            )
        if reason is None and reader is not None:
            reason = f"its weight is read besides its own call, in {reader}"
        if reason is None and spec.cls.absorbs_batch_norm:
            reason = _why_not_pooled(site, seen)
        if reason is None:
            places.append(site)
        else:
            skipped.append(Skip(site.path, reason))
    _refuse_nothing(spec, places, skipped)
    return places, skipped


def _refuse_nothing(spec: UnitSpec, places: Sequence[Site], skipped: Sequence[Skip]) -> None:
    if not places:
        reasons = "; ".join(f"{s.path or 'the model'}: {s.reason}" for s in skipped[:3])
        raise SurgeryError(f"none of the {len(skipped)} selected places can take {spec.name!r}: {reasons}")


def _why_not_pooled(site: Site, seen: Observation) -> str | None:
    """Why a unit with a BatchNorm cannot replace a squeeze-excite or head convolution that sees one pixel, or None."""
    conv, outputs = site.module, seen.outputs.get(id(site.module), [])
    pooled = bool(outputs) and all(tuple(shape[2:]) == (1, 1) for shape in outputs)
    if pooled and tuple(cast(Any, conv).kernel_size) == (1, 1) and cast(Any, conv).bias is not None:
        return "it reads a pooled vector (squeeze-excite, head): the unit's BatchNorm would see one pixel per image"
    return None


def plan_rows(
    spec: UnitSpec,
    model: nn.Module,
    places: list[Site],
    skipped: list[Skip],
    start: str,
    options: dict[str, Any],
    seen: Observation,
    example: Inputs | None,
) -> tuple[tuple[Replacement, ...], tuple[str, ...]]:
    """The rows of the plan and its notes. Frozen places whose start is not exact join the skipped ones.

    Raises:
        SurgeryError: no place is left.
    """
    absorb = plan_reorder if takes_signs(spec) else plan_absorption
    images = None if example is None else _images(example, seen)
    while True:
        absorbed, notes = absorb(spec, model, places, options, example)
        rows = tuple(
            replacement_row(spec, site, start, options, absorbed.get(site.path, Absorption()), seen, images)
            for site in places
        )
        inexact = {row.path for row in rows if row.start != "exact"}
        frozen = [site for site in places if site.path in inexact and is_frozen(site.module)]
        if not frozen:
            return rows, notes
        reason = f"it is frozen, and a {spec.name} there starts inexactly and would never train; unfreeze it first"
        skipped += [Skip(site.path, reason) for site in frozen]
        places = [site for site in places if not any(site is other for other in frozen)]
        _refuse_nothing(spec, places, skipped)


def _images(example: Inputs, seen: Observation) -> int:
    """The number of images in an example. Convolutions also take a single one without a batch: (C, H, W)."""
    shapes = [shape for calls in seen.inputs.values() for shape in calls]
    return 1 if shapes and all(len(shape) == 3 for shape in shapes) else example.images


def _left_alone(model: nn.Module) -> str:
    """Which other convolutions the model holds, or nothing."""
    kinds = [f"{count} {kind}" for kind, count in other_convolutions(model).items()]
    return f"left alone: {', '.join(kinds)} (units stand for Conv2d)" if kinds else ""


def remarks(
    spec: UnitSpec,
    model: nn.Module,
    where: Where,
    rows: Sequence[Replacement],
    reader: FlowReader,
    example: Inputs | None,
) -> tuple[str, ...]:
    """Notes on what a plan assumes and leaves out."""
    if spec.replaces != "convolution":
        return ()
    notes = [note] if (note := _left_alone(model)) else []
    if example is None and any(row.start == "exact" for row in rows):
        notes.append("an exact start is what the unit declares; with example_input= apply() proves it")
    if (example is None or asks_for_flow(where)) and reader.flow is None:
        known = "first and output are taken in definition order" if asks_for_flow(where) else ""
        if example is None:
            known += ("; " if known else "") + "what else reads the weights is not known"
        notes.append(f"the data flow cannot be seen ({reader.problem}): {known}")
    return tuple(notes)
