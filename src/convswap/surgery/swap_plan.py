"""Planning a swap to one unit: the plan, and how it is worked out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from ..errors import SurgeryError, check_choice
from ..units.contract.registry import get_unit
from .applying import Job, Swap
from .build import check_options
from .flow import FlowReader
from .inputs import ExampleInput, Inputs
from .observe import Observation, example_input_of, observe
from .placing import choose_sites, plan_rows, remarks, sort_out
from .plan import SwapReport
from .selection import Where
from .sites import Site, refuse_lazy, refuse_wrappers
from .stems import StemSite

Start = Literal["warm", "fresh"]


@dataclass(frozen=True)
class SwapPlan(SwapReport):
    """What a swap would do. Nothing is changed until `apply()`. `str(plan)` is a table.

    Attributes:
        replacements: the convolutions, blocks or stages that would be replaced.
        skipped: selected places that stay, with the reason.
        functional_convolutions: number of convolutions outside any module, None without an example input.
        notes: what else a reader should know.
        start: `"warm"` or `"fresh"`.
    """

    start: Start = "warm"
    model: nn.Module = field(repr=False, default_factory=nn.Identity)
    example_input: Inputs | None = field(repr=False, default=None)
    output_shapes: dict[str, list[tuple[int, ...]]] = field(repr=False, default_factory=dict)
    modules: tuple[nn.Module, ...] = field(repr=False, default=())

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain lists and dictionaries."""
        names = ("unit", "options", "where", "replacements", "skipped", "functional_convolutions", "notes")
        return SwapReport(*(getattr(self, n) for n in names)).as_dict() | {"start": self.start}

    __str__ = SwapReport.__str__

    def apply(self, *, inplace: bool = False, optimizer: torch.optim.Optimizer | None = None) -> nn.Module:
        """Carry the plan out.

        Args:
            inplace: edit the given model instead of a copy. A model that is itself a convolution cannot be.
            optimizer: with `inplace`, the optimizer that already holds the model's parameters. Each new parameter
                takes the place of the old parameter of its name, with a new state. Other parameters join the group
                of an old parameter of their kind (weight or vector), or a group without weight decay where the unit
                asks for that.

        Returns:
            The model with units. Hooks, names, train/eval flags, device, dtype, memory format and
            `requires_grad` are kept.

        Raises:
            SurgeryError: a replaced layer's output shape differs, a unit declares an exact start but computes
                something else on the example, or the arguments contradict each other. The given model is then as it
                was.
        """
        return Swap(self.model, [self.job()], self.example_input).carry_out(inplace=inplace, optimizer=optimizer)

    def job(self) -> Job:
        """The swap as data, with what it needs to know of the model."""
        return Job(self._record(), self.replacements, self.modules, self.output_shapes)

    def _record(self) -> dict[str, Any]:
        """The swap as data, which `perform_swap` can repeat on this or on a freshly built model."""
        record: dict[str, Any] = {"kind": "swap", "unit": self.unit, "options": self.options, "start": self.start}
        record["paths"] = [[r.path, *r.other_paths] for r in self.replacements]
        extra: dict[str, list[Any]] = {
            "site_options": [r.site_options for r in self.replacements],
            "places": [r.place for r in self.replacements],
            "absorbed": [list(r.absorbed) for r in self.replacements],
        }
        return record | {key: value for key, value in extra.items() if any(value)}


def plan_one_unit(
    model: nn.Module,
    unit: str,
    options: dict[str, Any],
    where: Where | None,
    start: Start,
    example_input: ExampleInput | None,
) -> SwapPlan:
    """The plan of a swap to one unit, see `plan_swap`."""
    spec = get_unit(unit)
    check_options(spec, options)
    check_choice("start", start, ("warm", "fresh"))
    refuse_wrappers(model)
    selection = spec.default_where if where is None else where
    described = selection if isinstance(selection, str) else getattr(selection, "__name__", "a predicate")
    guess = example_input_of(model) if example_input is None else Inputs.of(example_input, model)
    if guess is not None:
        refuse_lazy(model)
    reader = FlowReader(model, guess)
    chosen = choose_sites(spec, model, selection, described, guess, reader)
    stems = [site for site in chosen if isinstance(site, StemSite)]
    watched = [*chosen, *(Site((path,), model.get_submodule(path)) for site in stems for path in site.others)]
    example, seen = _observe(model, guess, watched, given=example_input is not None)
    if example is None and spec.replaces == "convolution":
        seen.readers = {} if reader.flow is None else reader.flow.readers
    places, skipped = sort_out(spec, model, chosen, options, seen, example)
    replacements, notes = plan_rows(spec, model, places, skipped, start, options, seen, example)
    places = [site for site in places if site.path in {row.path for row in replacements}]
    notes += remarks(spec, model, selection, replacements, reader, example)
    return SwapPlan(
        unit,
        dict(options),
        described,
        replacements,
        tuple(skipped),
        None if example is None else seen.functional,
        notes,
        start,
        model,
        example,
        _output_shapes(model, chosen, seen),
        tuple(site.module for site in places),
    )


def _end(model: nn.Module, site: Site) -> Site:
    """The site of the module whose output shape the unit's must equal. For a stem that is its pool."""
    path = site.others[0] if isinstance(site, StemSite) else site.path
    return Site((path,), model.get_submodule(path))


def _output_shapes(model: nn.Module, chosen: Sequence[Site], seen: Observation) -> dict[str, list[tuple[int, ...]]]:
    ends = {site.path: id(_end(model, site).module) for site in chosen}
    return {path: seen.outputs[key] for path, key in ends.items() if key in seen.outputs}


def _observe(
    model: nn.Module, example: Inputs | None, watched: list[Site], *, given: bool
) -> tuple[Inputs | None, Observation]:
    """One pass over the example. A guessed example that the model does not accept counts as no example."""
    if example is None:
        return None, Observation()
    try:
        return example, observe(model, example, watched)
    except SurgeryError:
        if given:
            raise
        return None, Observation()
