"""Swap: put a unit in the place of convolutions, residual blocks or stages, in any model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import nn

from ..errors import SurgeryError, check_choice
from ..units.contract.block import Place
from ..units.contract.registry import get_unit
from .absorb import take_out
from .build import build_unit, check_options
from .compare import Outputs, precision_of, relative_difference, rounding
from .copying import check_copy, copy_model
from .flow import FlowReader
from .history import append_history, carry_history
from .host_folds import guard_folds
from .inputs import ExampleInput, Inputs
from .modes import evaluating
from .observe import Observation, example_input_of, observe
from .optimizer import check_optimizer, update_optimizer
from .placing import choose_sites, plan_rows, remarks, sort_out
from .plan import SwapReport
from .proof import prove_network, prove_places
from .selection import Where
from .sites import Site, all_paths, carry_hooks, carry_padding, refuse_lazy, refuse_wrappers, replace
from .stems import StemSite

Start = Literal["warm", "fresh"]
Pairs = list[tuple[nn.Module, nn.Module]]


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
        if optimizer is not None and not inplace:
            raise SurgeryError("optimizer= was given without inplace=True: a copy's parameters are not the optimizer's")
        root = any(r.path == "" for r in self.replacements)
        if inplace and root:
            raise SurgeryError("the model is itself a convolution and cannot be replaced in place; use apply()")
        for replacement, module in zip(self.replacements, self.modules, strict=True):
            if self.model.get_submodule(replacement.path) is not module:
                raise SurgeryError(f"{replacement.path} changed since the plan was made; call plan_swap again")
        if optimizer is not None:
            check_optimizer(optimizer, self.modules)
        record = self._record()
        target = self.model if inplace else copy_model(self.model, hint="; use apply(inplace=True)")
        before = self._prove_given(target)
        model, pairs = perform_swap(target, record)
        undo = [(new, old) for old, new in reversed(pairs)] if inplace else []
        try:
            agrees = self._check(model, before)
        except Exception:
            exchange(model, undo)
            raise
        if before is not None and self.example_input is not None and not agrees:
            exchange(model, undo)
            if target is not self.model:
                self._check_copy(copy_model(self.model), before)
            prove_network(self.model, lambda twin: perform_swap(twin, record)[0], self.example_input, self.unit)
            exchange(model, pairs if inplace else [])
        if root:
            carry_history(self.model, model)
        append_history(model, record)
        if optimizer is not None:
            update_optimizer(optimizer, pairs, get_unit(self.unit).no_weight_decay)
        return model

    def _prove_given(self, target: nn.Module) -> Outputs | None:
        """Run the given model on the example. Check each place that starts exactly, and the copy to be edited.

        Where all places start exactly, the edited copy is compared with the given model instead, later.

        Returns the given model's outputs, or None where nothing can be proven.
        """
        if self.start != "warm" or self.example_input is None:
            return None
        outputs = prove_places(get_unit(self.unit), self.model, self.replacements, self.options, self.example_input)
        if target is not self.model and not self._all_exact:
            self._check_copy(target, outputs)
        return outputs

    @property
    def _all_exact(self) -> bool:
        return all(row.start == "exact" for row in self.replacements)

    def _check_copy(self, twin: nn.Module, outputs: Outputs) -> None:
        with evaluating(self.model, twin):
            check_copy(outputs, self.model, twin, cast(Inputs, self.example_input), SurgeryError)

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

    def _check(self, model: nn.Module, before: Outputs | None) -> bool:
        """Compare, in one pass over the example, every replaced layer's output shapes with those seen when planning.

        Returns whether a network in which every unit starts exactly gives the given model's output (`before`).
        """
        if self.example_input is None:
            return True
        watched = [Site((r.path,), model.get_submodule(r.path)) for r in self.replacements]
        seen = observe(model, self.example_input, watched)
        for site in watched:
            shapes, new_shapes = self.output_shapes.get(site.path), seen.outputs.get(id(site.module))
            if shapes != new_shapes:
                raise SurgeryError(
                    f"{site.path or 'the model'}: {self.unit} gives output shapes {new_shapes}, not {shapes}"
                )
        if before is None or not self._all_exact:
            return True
        return relative_difference(before, seen.result) <= rounding(precision_of(model, self.example_input))


def exchange(model: nn.Module, pairs: Pairs) -> None:
    """Put the second module of each pair in the place of the first one."""
    for old, new in pairs:
        replace(model, all_paths(model, old), new)


def perform_swap(model: nn.Module, record: dict[str, Any]) -> tuple[nn.Module, Pairs]:
    """Carry out a recorded swap in place. Returns the model and the exchanged modules, old and new."""
    spec = get_unit(record["unit"])
    none: list[Any] = [None] * len(record["paths"])
    columns = (record.get(name, none) for name in ("site_options", "places", "absorbed"))
    pairs: Pairs = []
    for paths, extra, where, absorbed in zip(record["paths"], *columns, strict=True):
        old = model.get_submodule(paths[0])
        place = None if where is None else _place(old, where)
        new = build_unit(spec, old, record["start"], record["options"] | (extra or {}), place)
        carry_hooks(old, new)
        if place is None:
            carry_padding(old, new)
        model = replace(model, tuple(paths), new)
        for path in paths:
            guard_folds(model, path)
        pairs.append((old, new))
        pairs += [take_out(model, path, new, warm=record["start"] == "warm") for path in absorbed or ()]
    return model, pairs


def _place(module: nn.Module, numbers: dict[str, Any]) -> Place:
    like = next(module.parameters())
    return Place(**numbers, device=like.device, dtype=like.dtype, training=module.training)


def plan_swap(
    model: nn.Module,
    unit: str,
    *,
    where: Where | None = None,
    start: Start = "warm",
    example_input: ExampleInput | None = None,
    **options: Any,
) -> SwapPlan:
    """Work out what `swap` would do, without changing anything.

    Args:
        model: any `nn.Module`.
        unit: registry name, see `list_units()`.
        where: which convolutions (for a block unit: which residual blocks or stages): a selection string
            (`"3x3 & !first & layer[34].*"`), a predicate `(path, module) -> bool`, or None for the unit's own
            placement (`default_where`).
        start: `"warm"` starts each unit from its convolution's function (as far as its `warm_start` declares);
            `"fresh"` starts it as for training from scratch, with the weights the host drew.
        example_input: (N, C, H, W), or another form that the model takes (`convswap.surgery.inputs`); adds MACs to the
            plan and a shape check to `apply()`. For a timm model its declared input size is used. A block unit needs
            one: blocks are found by watching a forward pass.
        options: the unit's options.

    Raises:
        UsageError: unknown unit or option, an option value that is not allowed, a `where` that is malformed or
            matches nothing, no example input where one is needed.
        SurgeryError: everything matched was skipped, or the model is wrapped (DDP, compile, ...).
    """
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


def swap(
    model: nn.Module,
    unit: str,
    *,
    where: Where | None = None,
    start: Start = "warm",
    example_input: ExampleInput | None = None,
    **options: Any,
) -> nn.Module:
    """A copy of the model with `unit` in the place of its convolutions: `plan_swap(...).apply()`.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    >>> type(swap(net, "circle")[2]).__name__
    'CircleConv2d'
    """
    return plan_swap(model, unit, where=where, start=start, example_input=example_input, **options).apply()
