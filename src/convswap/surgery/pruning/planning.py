"""`plan_prune`: which channels of a trained network go, and the smaller dense network without them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from torch import Tensor, nn

from ...errors import SurgeryError, UsageError, check_number, check_whole, is_number, unknown_name
from ...hooks import Hooks, writes
from ...units.contract.registry import spec_of
from ..compare import precision_of, rounding
from ..copying import copy_model
from ..history import append_history
from ..inputs import ExampleInput, Inputs
from ..macs import count_macs
from ..observe import example_input_of
from ..plan import Skip
from ..selection import Where, none_selected, select
from ..sites import is_unit, refuse_lazy, refuse_wrappers, sites
from .allocation import by_error, by_importance, take, uniform, whole_steps
from .calibration import Batch, Calibration, LossFunction, calibrate
from .compensation import fold, folded_weights
from .costs import CostModel
from .groups import ChannelGroup, find_groups, load_torch_pruning
from .importance import CRITERIA, GRADIENT_REDUNDANCY, importances
from .narrow import perform_prune
from .proof import difference_of, narrowings, sound_groups
from .redundancy import Redundancy, redundancy_of, removal_order
from .report import Cap, PrunedLayer, PruneReport


@dataclass(frozen=True)
class PrunePlan(PruneReport):
    """What a pruning does, worked out and proven on a copy. The given model stays as it is.

    `str(plan)` is a table: channels, effective rank and redundancy of every layer, the network's cap, and what stays.
    """

    pruned: nn.Module = field(repr=False, default_factory=nn.Identity)

    def apply(self) -> nn.Module:
        """The smaller network: a new dense model, in the modes (train, eval) of the given one.

        Its history records the kept channels, so `save` and `load` rebuild its shapes without torch-pruning.
        """
        return copy_model(self.pruned)

    __str__ = PruneReport.__str__


@dataclass(frozen=True)
class _Target:
    """`what` ("macs", "parameters") and the share of it to keep, or the cap."""

    what: str
    share: float | None

    def __str__(self) -> str:
        name = {"macs": "MACs", "parameters": "parameters"}[self.what]
        return "its cap" if self.share is None else f"{self.share:.1%} of the {name}"


@dataclass(frozen=True)
class _Limits:
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


def plan_prune(
    model: nn.Module,
    batches: Iterable[Batch] | None = None,
    criterion: str = GRADIENT_REDUNDANCY,
    *,
    macs: float | str | None = None,
    parameters: float | str | None = None,
    where: Where | None = None,
    loss: LossFunction | None = None,
    example_input: ExampleInput | None = None,
    tau: float = 1e-2,
    beyond_cap: bool = False,
    compensate: bool | None = None,
    keep_at_least: float = 0.1,
    multiple_of: int = 1,
    seed: int = 0,
) -> PrunePlan:
    """Work out which channels to remove, and build the smaller network. The given model is not changed.

    Args:
        model: a trained network. torch-pruning finds which channels only go together.
        batches: the calibration set: pairs of images (N, C, H, W) and labels (N,). `"taylor"`,
            `"gradient-redundancy"` and `compensate` need one.
        criterion: `"random"`, `"l1"` (filter norms), `"fpgm"` (geometric median), `"bn-scale"` (slimming), `"taylor"`
            (first order) or `"gradient-redundancy"` (after arXiv:2206.03596, reconstructed from its abstract; see
            `surgery.pruning.redundancy`).
        macs: the share of the multiply-accumulates to keep, above 0 and at most 1. `"cap"` prunes every layer to its
            effective rank.
        parameters: the share of the parameters to keep, or `"cap"`, in place of `macs`.
        where: which convolutions may lose output channels (`"layer[34].*"`, a predicate). Default: all, and the linear
            layers before the last.
        loss: from the model's outputs and the labels to a loss per image, or a sum over images. Default: cross entropy.
        example_input: needed without batches: (N, C, H, W), or another form that the model takes.
        tau: for gradient redundancy: the share of the eigenvalues' sum that the effective rank leaves out.
        beyond_cap: go on below the effective ranks where the target asks for it.
        compensate: give the removed channels' contribution to the kept ones, by least squares on the calibration set.
            Default: for gradient redundancy only.
        keep_at_least: the share of every layer's channels that stays in any case, one channel at least.
        multiple_of: every layer that loses channels keeps a multiple of this many: 8 or 16 suit vector registers.
        seed: of the criterion `"random"`.

    Raises:
        UsageError: an argument is not allowed, torch-pruning is not installed, or the target is below the cap.
        DataError: images or labels do not fit the model.
        SurgeryError: torch-pruning cannot follow the model, it holds units that must be fused first, no channel can
            go, or the target cannot be reached.
    """
    if criterion not in CRITERIA:
        raise unknown_name("criterion", str(criterion), CRITERIA)
    target = _target(criterion, macs, parameters)
    limits = _Limits(tau, beyond_cap, keep_at_least, multiple_of)
    load_torch_pruning()
    refuse_wrappers(model)
    refuse_lazy(model)
    _refuse_units(model)
    folding = criterion == GRADIENT_REDUNDANCY if compensate is None else compensate
    batches, example = _inputs(model, batches, example_input, criterion, CRITERIA[criterion].needs_data or folding)
    twin = copy_model(model).eval().requires_grad_(True)
    groups, skipped = _prunable(twin, example, where)
    found = Calibration()
    if batches is not None and (CRITERIA[criterion].needs_data or folding):
        gradients = criterion == GRADIENT_REDUNDANCY
        found = calibrate(twin, groups, batches, loss, gradients=gradients, activations=folding)
    choice = _choose(criterion, target, twin, groups, found, example, limits, seed)
    return _build(model, twin, target, criterion, choice, skipped, found, example)


def prune(model: nn.Module, batches: Iterable[Batch] | None = None, **options: Any) -> nn.Module:
    """The smaller network: `plan_prune(model, batches, ...).apply()`."""
    return plan_prune(model, batches, **options).apply()


def _target(criterion: str, macs: float | str | None, parameters: float | str | None) -> _Target:
    given = {name: value for name, value in (("macs", macs), ("parameters", parameters)) if value is not None}
    if len(given) != 1:
        raise UsageError(f"{len(given)} targets were given; give one of macs= and parameters=, a share to keep")
    ((name, value),) = given.items()
    if value == "cap" and criterion == GRADIENT_REDUNDANCY:
        return _Target(name, None)
    if value == "cap":
        raise UsageError(f"{name}='cap' needs criterion={GRADIENT_REDUNDANCY!r}, not {criterion!r}: others have no cap")
    if not is_number(value) or not 0 < value <= 1:
        raise UsageError(f"{name}={value!r} is not allowed; give the share to keep, above 0 and at most 1")
    return _Target(name, float(value))


def _refuse_units(model: nn.Module) -> None:
    for site in sites(model):
        if is_unit(site.module) and not writes(site.module, Hooks.narrow):
            spec = spec_of(site.module)
            name = spec.name if spec is not None else type(site.module).__name__
            raise SurgeryError(
                f"{site.path or 'the model'} is the unit {name!r}, whose channels cannot be removed one by one; prune "
                "the model after convswap.fuse, or before the swap"
            )
    for path, module in model.named_modules():
        own = type(module).__module__.startswith(("convswap.units.", "convswap.ops."))
        if own and not getattr(module, "narrows_by_parts", False) and not writes(module, Hooks.narrow):
            raise SurgeryError(
                f"{path or 'the model'} is a {type(module).__name__}, part of a unit whose channels cannot be removed "
                "one by one; prune the network before the swap"
            )


def _inputs(
    model: nn.Module, batches: Iterable[Batch] | None, example: ExampleInput | None, criterion: str, needed: bool
) -> tuple[Iterable[Batch] | None, Inputs]:
    """The batches, and the example: by default two images of the first batch."""
    if batches is None and needed:
        what = f"criterion={criterion!r}" if CRITERIA[criterion].needs_data else "compensate=True"
        raise UsageError(f"{what} needs batches=, pairs of images (N, C, H, W) and labels (N,)")
    if batches is not None and example is None:
        rest = iter(batches)
        first: Any = next(rest, None)
        batches = rest if first is None else chain([first], rest)
        if isinstance(first, tuple | list) and first and isinstance(first[0], Tensor):
            example = first[0][:2].to(next(model.parameters()).device)
    known = example_input_of(model) if example is None else Inputs.of(example, model)
    if known is None:
        raise UsageError("pruning needs batches= or example_input=, a tensor (N, C, H, W)")
    return batches, known


def _prunable(model: nn.Module, example: Inputs, where: Where | None) -> tuple[list[ChannelGroup], list[Skip]]:
    """The groups that may lose channels.

    Raises:
        SurgeryError: there are none.
    """
    groups, skipped = find_groups(model, example)
    if where is not None:
        chosen = {path for path, _ in select(model, where)}
        if not chosen:
            raise none_selected(model, f"where={where!r}")
        groups = [group for group in groups if chosen >= set(group.makers)]
    groups, unsound = sound_groups(model, groups, example)
    skipped += unsound
    if not groups:
        reasons = "; ".join(f"{skip.path}: {skip.reason}" for skip in skipped[:3]) or "where= leaves none"
        raise SurgeryError(f"no channel of this {type(model).__name__} can be removed: {reasons}")
    return groups, skipped


@dataclass(frozen=True)
class _Choice:
    """The groups, how many elements of each go, and which."""

    groups: list[ChannelGroup]
    removed: dict[int, list[int]]
    redundancies: list[Redundancy] | None
    cap: Cap | None
    skipped: list[Skip]


def _choose(
    criterion: str,
    target: _Target,
    model: nn.Module,
    groups: list[ChannelGroup],
    found: Calibration,
    example: Inputs,
    limits: _Limits,
    seed: int,
) -> _Choice:
    if criterion == GRADIENT_REDUNDANCY:
        costs = CostModel(model, groups, example)
        ranks = [redundancy_of(gram, found.samples, limits.tau) for gram in found.gradients]
        lost, cap = _layer_stage(target, costs, ranks, limits)
        removed = {i: removal_order(found.gradients[i], count) for i, count in enumerate(lost) if count}
        return _Choice(groups, removed, ranks, cap, [])
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
    return _Choice(groups, removed, None, None, skipped)


def _layer_stage(target: _Target, costs: CostModel, ranks: list[Redundancy], limits: _Limits) -> tuple[list[int], Cap]:
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


def _reached(target: _Target, costs: CostModel, lost: Sequence[int]) -> bool:
    share = 1.0 if target.share is None else target.share
    return costs.sum_of(target.what, lost) <= share * costs.sum_of(target.what, [0] * len(lost)) * (1 + 1e-9)


def _out_of_reach(target: _Target, costs: CostModel, most: Sequence[int]) -> SurgeryError:
    least = costs.sum_of(target.what, most) / costs.sum_of(target.what, [0] * len(most))
    return SurgeryError(
        f"{target.what}={target.share:g} cannot be reached: {least:.3g} remains with every layer at its narrowest; "
        "keep more, or lower keep_at_least= or multiple_of="
    )


def _build(
    model: nn.Module,
    twin: nn.Module,
    target: _Target,
    criterion: str,
    choice: _Choice,
    skipped: list[Skip],
    found: Calibration,
    example: Inputs,
) -> PrunePlan:
    groups, removed = choice.groups, choice.removed
    narrow = narrowings(twin, groups, removed)
    difference = difference_of(twin, groups, removed, example)
    if difference > rounding(precision_of(twin, example)):
        raise SurgeryError(
            f"the narrow network differs by {difference:.1e} from the wide one without these channels; torch-pruning "
            "misreads an operation of this model"
        )
    record = {"kind": "prune", "criterion": criterion, "narrow": [list(each) for each in narrow]}
    pruned = perform_prune(copy_model(model), record)
    weights = folded_weights(twin, narrow, found.activations)
    fold(pruned, weights)
    if narrow:
        append_history(pruned, record)
    layers = tuple(
        PrunedLayer(
            group.path,
            tuple(group.makers[1:]),
            len(group.readers),
            group.size,
            group.size - len(removed.get(i, ())),
            None if choice.redundancies is None else choice.redundancies[i].rank,
        )
        for i, group in enumerate(groups)
    )
    before, after = ((count_macs(m, example), sum(p.numel() for p in m.parameters())) for m in (model, pruned))
    return PrunePlan(
        criterion,
        str(target),
        layers,
        (*skipped, *choice.skipped),
        choice.cap,
        before[0],
        after[0],
        before[1],
        after[1],
        len(weights),
        difference,
        found.samples,
        tuple(narrow),
        pruned,
    )
