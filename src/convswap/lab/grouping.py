"""Which trials of a lab are compared with each other: groups of variants that differ along one axis only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .axis import UNIT, Axis
from .store import StoredTrial
from .trial import BASELINE, Trial, canonical_json

_SURGERY = ("unit", "unit_options", "where", "start")


@dataclass
class Group:
    """The variants of one comparison.

    Attributes:
        axis: the name of what varies.
        baseline: the name of the variant that the others are compared with.
        variants: name and trials (by seed) of each variant. With several placements a unit has several.
        name: the model, and what else distinguishes the group from others of the model.
    """

    axis: str
    baseline: str
    variants: list[tuple[str, list[StoredTrial]]]
    name: str = ""

    @property
    def trial(self) -> Trial:
        """One of its trials."""
        return self.variants[0][1][0].trial


def group_trials(trials: Iterable[StoredTrial], axes: Sequence[Axis] = ()) -> list[Group]:
    """Groups of trials that are equal in everything but the seed and what one axis varies.

    A trial may be in several groups: `conv` under the default recipe is the baseline of the units, and that of the
    recipes. A group of a single unit whose trials are all compared along another axis is left out.
    """
    stored = list(trials)
    along = [group for axis in axes for group in _along(axis, stored)]
    compared = {one.id for group in along for _, members in group.variants for one in members}
    units = [
        group
        for group in _units(stored)
        if len(group.variants) > 1 or any(one.id not in compared for one in group.variants[0][1])
    ]
    for axis in dict.fromkeys(group.axis for group in (*units, *along)):
        _name([group for group in (*units, *along) if group.axis == axis])
    found = [*units, *along]
    for group in along:
        if sum(group.name == other.name for other in found) > 1:
            group.name = f"{group.name} by {group.axis.replace('_', ' ')}"
    return found


def _units(stored: Sequence[StoredTrial]) -> list[Group]:
    settings: dict[str, dict[str, list[StoredTrial]]] = {}
    for one in stored:
        surgery = canonical_json([getattr(one.trial, name) for name in _SURGERY])
        settings.setdefault(_without(one.trial, _SURGERY), {}).setdefault(surgery, []).append(one)
    return [
        Group(UNIT, BASELINE, [(members[0].trial.unit, _by_seed(members)) for members in variants.values()])
        for variants in settings.values()
    ]


def _along(axis: Axis, stored: Sequence[StoredTrial]) -> list[Group]:
    settings: dict[str, dict[str, list[StoredTrial]]] = {}
    for one in stored:
        if (variant := axis.variant_of(one.trial)) is not None:
            settings.setdefault(_without(one.trial, ("recipe",)), {}).setdefault(variant, []).append(one)
    return [
        Group(axis.name, axis.baseline, [(name, _by_seed(found[name])) for name in axis.recipes if name in found])
        for found in settings.values()
        if len(found) > 1
    ]


def _by_seed(members: Iterable[StoredTrial]) -> list[StoredTrial]:
    return sorted(members, key=lambda stored: stored.trial.seed)


def _without(trial: Trial, names: Sequence[str]) -> str:
    """Everything that must be equal for two trials to be compared."""
    return canonical_json({key: value for key, value in trial.identity().items() if key not in ("seed", *names)})


def _name(groups: Sequence[Group]) -> None:
    """The models' names. If a model has several settings, parentheses hold the values that distinguish them."""
    flat = [_flat(group) for group in groups]
    for group, mine in zip(groups, flat, strict=True):
        peers = [theirs for other, theirs in zip(groups, flat, strict=True) if other.trial.model == group.trial.model]
        keys = sorted({key for other in peers for key in mine.keys() | other.keys() if mine.get(key) != other.get(key)})
        text = ", ".join(f"{key}={mine.get(key)}" for key in keys)
        group.name = f"{group.trial.model} ({text})" if text else group.trial.model


def _flat(group: Group) -> dict[str, str]:
    """A group's setting with its inner dictionaries flattened, and values short enough to read."""
    varied = _SURGERY if group.axis == UNIT else ("recipe",)
    setting: dict[str, Any] = json.loads(_without(group.trial, varied))
    inner: dict[str, Any] = {}
    for name in ("recipe", "model_arguments", "network", "data_options", "unit_options"):
        inner |= setting.pop(name, None) or {}
    return {key: str(value)[:12] for key, value in {**setting, **inner}.items()}
