"""Planning a swap to several units: one plan for each unit with its options, and no place claimed twice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import nn

from ..errors import SurgeryError, UsageError
from ..units.contract.registry import get_unit
from .applying import Swap
from .flow import FlowReader
from .inputs import ExampleInput, Inputs
from .mixture import Mixture, Part
from .observe import example_input_of
from .placing import choose_sites
from .plan import Replacement, Skip, plan_text
from .sites import refuse_lazy, refuse_wrappers
from .swap_plan import Start, SwapPlan, plan_one_unit


@dataclass(frozen=True)
class MixedPlan:
    """What a swap to several units would do. Nothing is changed until `apply()`. `str(plan)` is a table.

    Attributes:
        mixture: which places take which unit. `mixture.id` is the hash of this content.
        plans: one for each unit with its options. Entries with the same unit and options are one.
        replacements: all places that would be replaced, in the order in which the model defines them.
        start: `"warm"` or `"fresh"`, for all units.
        model: the model that would be changed.
    """

    mixture: Mixture
    plans: tuple[SwapPlan, ...]
    replacements: tuple[Replacement, ...]
    start: Start
    model: nn.Module = field(repr=False)

    @property
    def skipped(self) -> tuple[Skip, ...]:
        """Selected places that stay, with unit and reason."""
        return tuple(Skip(s.path, f"{plan.unit}: {s.reason}") for plan in self.plans for s in plan.skipped)

    @property
    def functional_convolutions(self) -> int | None:
        """Number of convolutions outside any module, None without an example input."""
        return self.plans[0].functional_convolutions

    @property
    def notes(self) -> tuple[str, ...]:
        """What else a reader should know."""
        told = [(plan.unit, note) for plan in self.plans for note in plan.notes]
        notes = dict.fromkeys(note for _, note in told)
        return tuple(
            f"{', '.join(unit for unit, text in told if text == note)}: {note}" if len(self.plans) > 1 else note
            for note in notes
        )

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain lists and dictionaries."""
        return {
            "id": self.mixture.id,
            "mixture": self.mixture.as_dict(),
            "replacements": [asdict(row) for row in self.replacements],
            "skipped": [asdict(skip) for skip in self.skipped],
            "functional_convolutions": self.functional_convolutions,
            "notes": list(self.notes),
            "start": self.start,
        }

    def to_json(self) -> str:
        """The plan as JSON."""
        return json.dumps(self.as_dict(), indent=2)

    def __str__(self) -> str:
        title = [f"mixed plan {self.mixture.id}", *(f"  swap to {part}" for part in self.mixture.parts)]
        found = (self.replacements, self.skipped, self.notes, self.functional_convolutions)
        return plan_text(title, *found, units=True)

    def apply(self, *, inplace: bool = False, optimizer: torch.optim.Optimizer | None = None) -> nn.Module:
        """Carry the plan out, as one swap with one proof. See `SwapPlan.apply`.

        The model's history gets one record for each unit with its options, so `save` and `load` repeat them in order.
        """
        jobs = [plan.job() for plan in self.plans]
        return Swap(self.model, jobs, self.plans[0].example_input).carry_out(inplace=inplace, optimizer=optimizer)


def plan_mixture(model: nn.Module, mixture: Mixture, start: Start, example_input: ExampleInput | None) -> MixedPlan:
    """The plan of a swap to several units, see `plan_swap`."""
    refuse_wrappers(model)
    example = example_input_of(model) if example_input is None else Inputs.of(example_input, model)
    if example is not None:
        refuse_lazy(model)
    selected = _selected(model, mixture, example)
    _refuse_shared(selected)
    plans = []
    for parts in _grouped(mixture):
        where = ", ".join(part.where for part in parts)  # a comma separates alternatives
        plan = plan_one_unit(model, parts[0].unit, parts[0].options, where, start, example_input)
        _refuse_idle(plan, parts, selected)
        plans.append(plan)
    _refuse_overlaps(plans)
    order = {path: index for index, (path, _) in enumerate(model.named_modules())}
    rows = sorted((row for plan in plans for row in plan.replacements), key=lambda row: order[row.path])
    return MixedPlan(mixture, tuple(plans), tuple(rows), start, model)


def _selected(model: nn.Module, mixture: Mixture, example: Inputs | None) -> dict[str, set[str]]:
    """The paths of the places that each selection means."""
    reader = FlowReader(model, example)
    found = {}
    for part in mixture.parts:
        try:
            sites = choose_sites(get_unit(part.unit), model, part.where, part.where, example, reader)
        except UsageError as error:
            raise UsageError(f"entry {part.where!r} ({part.unit}) of the mixed plan: {error}") from error
        found[part.where] = {path for site in sites for path in site.paths}
    return found


def _refuse_shared(selected: dict[str, set[str]]) -> None:
    for one, other in combinations(selected, 2):
        both = sorted(selected[one] & selected[other])
        if both:
            few = ", ".join(path or "the model" for path in both[:3]) + (", ..." if len(both) > 3 else "")
            raise SurgeryError(
                f"{one!r} and {other!r} of the mixed plan both select {few}; make one narrower, e.g. by '& !{both[0]}'"
            )


def _grouped(mixture: Mixture) -> Iterator[list[Part]]:
    """The entries with the same unit and options: only together do they show what the unit takes over of its host."""
    groups: dict[str, list[Part]] = {}
    for part in mixture.parts:
        groups.setdefault(json.dumps(part.value, sort_keys=True), []).append(part)
    yield from groups.values()


def _refuse_idle(plan: SwapPlan, parts: Sequence[Part], selected: dict[str, set[str]]) -> None:
    """Refuse an entry of which no place can take its unit, as a swap to this unit alone would."""
    replaced = {path for row in plan.replacements for path in (row.path, *row.other_paths)}
    for part in parts:
        if not selected[part.where] & replaced:
            reasons = [f"{s.path}: {s.reason}" for s in plan.skipped if s.path in selected[part.where]]
            raise SurgeryError(
                f"none of the places of {part.where!r} in the mixed plan can take {part.unit!r}: "
                + "; ".join(reasons[:3])
            )


def _refuse_overlaps(plans: Sequence[SwapPlan]) -> None:
    """Refuse places inside one another, and modules of the host that two units would take over."""
    for one, other in combinations(plans, 2):
        for mine, theirs in ((a, b) for a in _claims(one) for b in _claims(other)):
            if mine == theirs or mine.startswith(f"{theirs}.") or theirs.startswith(f"{mine}."):
                raise SurgeryError(
                    f"{one.unit!r} (where {one.where}) would replace or take over {mine or 'the model'}, and "
                    f"{other.unit!r} (where {other.where}) {theirs or 'the model'}; leave one of them out"
                )


def _claims(plan: SwapPlan) -> list[str]:
    """The paths that a plan replaces or removes."""
    return [path for row in plan.replacements for path in (row.path, *row.other_paths, *row.absorbed)]
