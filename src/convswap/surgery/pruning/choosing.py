"""Which channels go, so that a target is met."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ...errors import SurgeryError, UsageError, check_number, check_whole, is_number
from ..inputs import Inputs
from ..plan import Skip
from .allocation import by_error, by_importance, take, uniform, whole_steps
from .calibration import Calibration
from .costs import CostModel
from .groups import ChannelGroup
from .importance import CRITERIA, GRADIENT_REDUNDANCY, importances
from .redundancy import Redundancy, redundancy_of, removal_order
from .report import Cap

TARGETS = ("macs", "parameters", "latency")


@dataclass(frozen=True)
class Target:
    """`what` is counted or measured (one of `TARGETS`), and the share of it to keep, or None for the cap."""

    what: str
    share: float | None

    @classmethod
    def of(cls, criterion: str, given: dict[str, float | str | None]) -> Target:
        """The one target that is given.

        Raises:
            UsageError: none or several are given, or the value is not allowed.
        """
        asked = {name: value for name, value in given.items() if value is not None}
        if len(asked) != 1:
            raise UsageError(f"{len(asked)} targets were given; give one of {', '.join(TARGETS)}, a share to keep")
        ((name, value),) = asked.items()
        if value == "cap" and name == "latency":
            raise UsageError("latency='cap' is not allowed; the cap is one of channels: give macs='cap'")
        if value == "cap" and criterion == GRADIENT_REDUNDANCY:
            return cls(name, None)
        if value == "cap":
            raise UsageError(
                f"{name}='cap' needs criterion={GRADIENT_REDUNDANCY!r}, not {criterion!r}: others have no cap"
            )
        if not is_number(value) or not 0 < value <= 1:
            raise UsageError(f"{name}={value!r} is not allowed; give the share to keep, above 0 and at most 1")
        return cls(name, float(value))

    def __str__(self) -> str:
        name = {"macs": "MACs"}.get(self.what, self.what)
        return "its cap" if self.share is None else f"{self.share:.1%} of the {name}"


@dataclass(frozen=True)
class Limits:
    """How far each layer may go, checked."""

    tau: float
    beyond_cap: bool
    keep_at_least: float
    multiple_of: int

    def __post_init__(self) -> None:
        for name in ("tau", "keep_at_least"):
            check_number(name, getattr(self, name), lambda value: 0 <= value < 1, "a number from 0 to below 1")
        check_whole("multiple_of", self.multiple_of)

    def most(self, group: ChannelGroup) -> int:
        """How many elements a group may lose."""
        return group.size - max(1, math.ceil(self.keep_at_least * group.size))

    def whole_steps(self, groups: Sequence[ChannelGroup], lost: Sequence[int]) -> list[int]:
        """The losses, each lowered until the kept channels are a multiple of `multiple_of`, or all."""
        return [
            whole_steps(group.size, count, self.multiple_of // math.gcd(self.multiple_of, group.members[0].width))
            for group, count in zip(groups, lost, strict=True)
        ]


@dataclass(frozen=True)
class Choice:
    """The groups, how many elements of each go, and which."""

    groups: list[ChannelGroup]
    removed: dict[int, list[int]]
    redundancies: list[Redundancy] | None
    cap: Cap | None
    skipped: list[Skip]


def choose(
    criterion: str,
    target: Target,
    model: nn.Module,
    groups: list[ChannelGroup],
    found: Calibration,
    example: Inputs,
    limits: Limits,
    seed: int,
) -> Choice:
    """Which elements of which groups go, for a target of MACs or parameters.

    Raises:
        UsageError: the target is below the cap.
        SurgeryError: the target cannot be reached.
    """
    if criterion == GRADIENT_REDUNDANCY:
        costs = CostModel(model, groups, example)
        ranks = [redundancy_of(gram, found.samples, limits.tau) for gram in found.gradients]
        lost, cap = _layer_stage(target, costs, ranks, limits)
        removed = {i: removal_order(found.gradients[i], count) for i, count in enumerate(lost) if count}
        return Choice(groups, removed, ranks, cap, [])
    groups, scores, skipped = importances(criterion, model, groups, seed)
    if not groups:
        raise SurgeryError(f"no layer has what {criterion} measures; choose another criterion, such as 'l1'")
    costs = CostModel(model, groups, example)
    most = [limits.most(group) for group in groups]
    order = uniform([g.size for g in groups]) if CRITERIA[criterion].spread == "uniform" else by_importance(scores)
    lost = [0] * len(groups)
    if not take(order, lost, most, lambda now: _reached(target, costs, limits.whole_steps(groups, now))):
        raise _out_of_reach(target, costs, limits.whole_steps(groups, most))
    lost = limits.whole_steps(groups, lost)
    removed = {i: scores[i].argsort(stable=True)[:count].tolist() for i, count in enumerate(lost) if count}
    return Choice(groups, removed, None, None, skipped)


def _layer_stage(target: Target, costs: CostModel, ranks: list[Redundancy], limits: Limits) -> tuple[list[int], Cap]:
    """How many elements each group loses, within the cap first.

    Raises:
        UsageError: the target is below the cap.
        SurgeryError: the target cannot be reached at all.
    """
    groups = costs.groups
    none = [0] * len(groups)
    most = [limits.most(group) for group in groups]
    within = [min(len(r.errors) - r.rank, limit) for r, limit in zip(ranks, most, strict=True)]
    at_cap = limits.whole_steps(groups, within)
    macs, parameters = (costs.sum_of(what, at_cap) / costs.sum_of(what, none) for what in ("macs", "parameters"))
    cap = Cap(macs, parameters, limits.tau)
    if target.share is None:
        return at_cap, cap
    lost = list(none)
    for limit in (within, most) if limits.beyond_cap else (within,):
        order = by_error(ranks, costs, target.what, lost, limit)
        if take(order, lost, limit, lambda now: _reached(target, costs, limits.whole_steps(groups, now))):
            return limits.whole_steps(groups, lost), cap
    if limits.beyond_cap:
        raise _out_of_reach(target, costs, limits.whole_steps(groups, most))
    raise UsageError(
        f"{target.what}={target.share:g} is below {cap}; keep more, give beyond_cap=True, or choose another criterion "
        f"({', '.join(name for name in CRITERIA if name != GRADIENT_REDUNDANCY)})"
    )


def _reached(target: Target, costs: CostModel, lost: Sequence[int]) -> bool:
    share = 1.0 if target.share is None else target.share
    return costs.sum_of(target.what, lost) <= share * costs.sum_of(target.what, [0] * len(lost)) * (1 + 1e-9)


def _out_of_reach(target: Target, costs: CostModel, most: Sequence[int]) -> SurgeryError:
    least = costs.sum_of(target.what, most) / costs.sum_of(target.what, [0] * len(most))
    return SurgeryError(
        f"{target.what}={target.share:g} cannot be reached: {least:.3g} remains with every layer at its narrowest; "
        "keep more, or lower keep_at_least= or multiple_of="
    )
