"""What varies between the rows of a comparison: the unit, or something of the recipe."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import StoreError, UsageError
from .files import read_object, write_atomic
from .trial import Trial, canonical_json

UNIT = "unit"
"""The axis that needs no note: trials of other units are compared with `conv` of the same setting."""
AXES_FILE = "axes.json"


@dataclass(frozen=True)
class Axis:
    """A varied part of the recipe. Everything else of the trials that are compared along it is equal.

    A trial holds its whole recipe, so the axis is no part of the trial's description. The lab notes it in `axes.json`.

    Attributes:
        name: what varies: `"recipe"`, `"learning_rate"`, ...
        recipes: the recipe of each variant (`Recipe.as_dict()`) by its name. The first one is the baseline.
    """

    name: str
    recipes: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        if self.name == UNIT or len(self.recipes) < 2:
            raise UsageError(
                f"axis {self.name!r} with the variants {', '.join(self.recipes) or 'none'} is not allowed; give an "
                f"axis other than {UNIT!r}, and at least two variants"
            )
        names: dict[str, str] = {}
        for name, recipe in self.recipes.items():
            other = names.setdefault(canonical_json(recipe), name)
            if other != name:
                raise UsageError(f"{self.name} {other!r} and {name!r} are the same recipe; leave one out")

    @property
    def baseline(self) -> str:
        """The variant that the others are compared with."""
        return next(iter(self.recipes))

    def variant_of(self, trial: Trial) -> str | None:
        """The name of a trial's variant, None for a trial with another recipe."""
        mine = canonical_json(trial.recipe)
        return next((name for name, recipe in self.recipes.items() if canonical_json(recipe) == mine), None)

    def vary(self, trials: Iterable[Trial]) -> list[Trial]:
        """Each of these trials under the recipe of every variant, one after the other, so that a stop stays fair."""
        return [replace(trial, recipe=dict(recipe)) for trial in trials for recipe in self.recipes.values()]

    def joined(self, newer: Axis) -> Axis | None:
        """Both as one axis if they vary the same thing from the same baseline, else None."""
        if self.name != newer.name or self.recipes[self.baseline] != newer.recipes[newer.baseline]:
            return None
        known = {canonical_json(recipe) for recipe in newer.recipes.values()}
        kept = {n: r for n, r in self.recipes.items() if canonical_json(r) not in known and n not in newer.recipes}
        return Axis(self.name, {**newer.recipes, **kept})


def note_axis(lab_dir: str | Path, axis: Axis) -> None:
    """Note an axis in a lab, joined with one of the same name and baseline. `summarize` then knows what to compare.

    Raises:
        StoreError: the lab's file is damaged or cannot be written.
    """
    axes: list[Axis] = []
    for known in read_axes(lab_dir):
        if (both := known.joined(axis)) is None:
            axes.append(known)
        else:
            axis = both
    noted = [
        {"axis": one.name, "recipes": [[name, dict(r)] for name, r in one.recipes.items()]} for one in (*axes, axis)
    ]
    write_atomic(Path(lab_dir) / AXES_FILE, json.dumps({"axes": noted}, indent=1))


def read_axes(lab_dir: str | Path) -> list[Axis]:
    """The axes noted in a lab, in order. Empty for a lab that only varies units.

    Raises:
        StoreError: the file is damaged.
    """
    path, fix = Path(lab_dir) / AXES_FILE, "delete it, and run the comparison again: finished trials are kept"
    if not path.exists():
        return []
    try:
        return [Axis(one["axis"], dict(one["recipes"])) for one in read_object(path, fix)["axes"]]
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({error}); {fix}") from error
