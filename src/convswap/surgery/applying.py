"""Carrying out a planned swap: on a copy or in place, with its proof, and undone where the proof fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from ..errors import SurgeryError
from ..units.contract.block import Place
from ..units.contract.registry import UnitSpec, get_unit
from .absorb import take_out
from .build import build_unit
from .compare import Outputs, precision_of, relative_difference, rounding
from .copying import check_copy, copy_model
from .history import append_history, carry_history
from .host_folds import guard_folds
from .inputs import Inputs
from .modes import evaluating
from .observe import observe
from .optimizer import check_optimizer, update_optimizer
from .plan import Replacement
from .proof import prove_network, prove_places
from .sites import Site, all_paths, carry_hooks, carry_padding, replace

Pairs = list[tuple[nn.Module, nn.Module]]


@dataclass(frozen=True)
class Job:
    """One unit of a swap, and all its places.

    Attributes:
        record: the swap as data, which `perform_swap` can repeat on this or on a freshly built model.
        rows: what the plan says of each place.
        modules: what stood in these places when the plan was made.
        output_shapes: what the example showed there, by path.
    """

    record: dict[str, Any]
    rows: tuple[Replacement, ...]
    modules: tuple[nn.Module, ...]
    output_shapes: dict[str, list[tuple[int, ...]]]

    @property
    def spec(self) -> UnitSpec:
        """The unit's registry row."""
        return get_unit(self.record["unit"])


class Swap:
    """A swap of one or several units, ready to be carried out as one.

    Args:
        model: the model that the jobs were planned for.
        jobs: one for each unit, carried out in this order. No two have a place in common.
        example: the input of the proof, or None: then nothing is proven.
    """

    def __init__(self, model: nn.Module, jobs: Sequence[Job], example: Inputs | None) -> None:
        self.model, self.jobs, self.example = model, jobs, example
        self.rows = [row for job in jobs for row in job.rows]
        self.modules = [module for job in jobs for module in job.modules]
        self.warm = all(job.record["start"] == "warm" for job in jobs)

    def carry_out(self, *, inplace: bool, optimizer: torch.optim.Optimizer | None) -> nn.Module:
        """The model with units, see `SwapPlan.apply`."""
        root = any(row.path == "" for row in self.rows)
        self._check(inplace, root, optimizer)
        target = self.model if inplace else copy_model(self.model, hint="; use apply(inplace=True)")
        before = self._prove_given(target)
        model, pairs = self._perform(target)
        exchanged = [pair for of_job in pairs for pair in of_job] if inplace else []
        try:
            agrees = self._compare(model, before)
        except Exception:
            undo(model, exchanged)
            raise
        if before is not None and self.example is not None and not agrees:
            undo(model, exchanged)
            if target is not self.model:
                self._check_copy(copy_model(self.model), before)
            units = ", ".join(dict.fromkeys(row.unit for row in self.rows))
            prove_network(self.model, lambda twin: self._perform(twin)[0], self.example, units)
            exchange(model, exchanged)
        if root:
            carry_history(self.model, model)
        for job, of_job in zip(self.jobs, pairs, strict=True):
            append_history(model, job.record)
            if optimizer is not None:
                update_optimizer(optimizer, of_job, job.spec.no_weight_decay)
        return model

    def _check(self, inplace: bool, root: bool, optimizer: torch.optim.Optimizer | None) -> None:
        """Refuse arguments that contradict each other, and a model that changed, before anything is edited."""
        if optimizer is not None and not inplace:
            raise SurgeryError("optimizer= was given without inplace=True: a copy's parameters are not the optimizer's")
        if inplace and root:
            raise SurgeryError("the model is itself a convolution and cannot be replaced in place; use apply()")
        for row, module in zip(self.rows, self.modules, strict=True):
            if self.model.get_submodule(row.path) is not module:
                raise SurgeryError(f"{row.path} changed since the plan was made; call plan_swap again")
        if optimizer is not None:
            check_optimizer(optimizer, self.modules)

    def _perform(self, model: nn.Module) -> tuple[nn.Module, list[Pairs]]:
        """Every job in place. Returns the model and, for each job, the exchanged modules."""
        pairs: list[Pairs] = []
        try:
            for job in self.jobs:
                model, of_job = perform_swap(model, job.record)
                pairs.append(of_job)
        except Exception:
            for of_job in reversed(pairs):
                undo(model, of_job)
            raise
        return model, pairs

    def _prove_given(self, target: nn.Module) -> Outputs | None:
        """Run the given model on the example. Check each place that starts exactly, and the copy to be edited.

        Where all places start exactly, the edited copy is compared with the given model instead, later.

        Returns the given model's outputs, or None where nothing can be proven.
        """
        if not self.warm or self.example is None:
            return None
        places = [(job.spec, row, job.record["options"] | row.site_options) for job in self.jobs for row in job.rows]
        outputs = prove_places(self.model, places, self.example)
        if target is not self.model and not self._all_exact:
            self._check_copy(target, outputs)
        return outputs

    @property
    def _all_exact(self) -> bool:
        return all(row.start == "exact" for row in self.rows)

    def _check_copy(self, twin: nn.Module, outputs: Outputs) -> None:
        with evaluating(self.model, twin):
            check_copy(outputs, self.model, twin, cast(Inputs, self.example), SurgeryError)

    def _compare(self, model: nn.Module, before: Outputs | None) -> bool:
        """Compare, in one pass over the example, every replaced layer's output shapes with those seen when planning.

        Returns whether a network in which every unit starts exactly gives the given model's output (`before`).
        """
        if self.example is None:
            return True
        watched = {row.path: Site((row.path,), model.get_submodule(row.path)) for row in self.rows}
        seen = observe(model, self.example, list(watched.values()))
        for job in self.jobs:
            for row in job.rows:
                shapes, new_shapes = job.output_shapes.get(row.path), seen.outputs.get(id(watched[row.path].module))
                if shapes != new_shapes:
                    place = row.path or "the model"
                    raise SurgeryError(f"{place}: {row.unit} gives output shapes {new_shapes}, not {shapes}")
        if before is None or not self._all_exact:
            return True
        return relative_difference(before, seen.result) <= rounding(precision_of(model, self.example))


def exchange(model: nn.Module, pairs: Pairs) -> None:
    """Put the second module of each pair in the place of the first one."""
    for old, new in pairs:
        replace(model, all_paths(model, old), new)


def undo(model: nn.Module, pairs: Pairs) -> None:
    """Put the first module of each pair back."""
    exchange(model, [(new, old) for old, new in reversed(pairs)])


def perform_swap(model: nn.Module, record: dict[str, Any]) -> tuple[nn.Module, Pairs]:
    """Carry out a recorded swap in place. Returns the model and the exchanged modules, old and new.

    After an error the model is as it was.
    """
    spec = get_unit(record["unit"])
    none: list[Any] = [None] * len(record["paths"])
    columns = (record.get(name, none) for name in ("site_options", "places", "absorbed"))
    pairs: Pairs = []
    try:
        for paths, extra, where, absorbed in zip(record["paths"], *columns, strict=True):
            old = model.get_submodule(paths[0])
            place = None if where is None else _place(old, where)
            new = build_unit(spec, old, record["start"], record["options"] | (extra or {}), place)
            carry_hooks(old, new)
            if place is None:
                carry_padding(old, new)
            model = replace(model, tuple(paths), new)
            pairs.append((old, new))
            for path in paths:
                guard_folds(model, path)
            pairs += [take_out(model, path, new, warm=record["start"] == "warm") for path in absorbed or ()]
    except Exception:
        undo(model, pairs)
        raise
    return model, pairs


def _place(module: nn.Module, numbers: dict[str, Any]) -> Place:
    like = next(module.parameters())
    return Place(**numbers, device=like.device, dtype=like.dtype, training=module.training)
