"""`plan_prune`: which channels of a trained network go, and the smaller dense network without them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from torch import Tensor, nn

from ...errors import SurgeryError, UsageError, unknown_name
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
from .calibration import Batch, Calibration, LossFunction, calibrate
from .choosing import Choice, Limits, Target, choose
from .compensation import fold, folded_weights
from .groups import ChannelGroup, find_groups, load_torch_pruning
from .importance import CRITERIA, GRADIENT_REDUNDANCY
from .narrow import perform_prune
from .proof import difference_of, narrowings, sound_groups
from .report import PrunedLayer, PruneReport, Speed
from .speed import choose_by_latency


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


def plan_prune(
    model: nn.Module,
    batches: Iterable[Batch] | None = None,
    criterion: str = GRADIENT_REDUNDANCY,
    *,
    macs: float | str | None = None,
    parameters: float | str | None = None,
    latency: float | None = None,
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
        latency: in place of `macs`, the share to keep of the time of a forward pass on the example: as the model is,
            in eval mode, on torch's number of threads. Networks of several widths are timed in turns with the model;
            the widest that is fast enough is taken. The machine must be quiet.
        where: which convolutions may lose output channels (`"layer[34].*"`, a predicate). Default: all, and the linear
            layers before the last.
        loss: from the model's outputs and the labels to a loss per image, or a sum over images. Default: cross entropy.
        example_input: needed without batches: (N, C, H, W), or another form that the model takes. Default: two images
            of the first batch.
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
    target = Target.of(criterion, {"macs": macs, "parameters": parameters, "latency": latency})
    limits = Limits(tau, beyond_cap, keep_at_least, multiple_of)
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

    def choose_for(goal: Target) -> Choice:
        return choose(criterion, goal, twin, groups, found, example, limits, seed)

    speed = None
    if target.what == "latency" and target.share is not None:
        choice, speed = choose_by_latency(target.share, choose_for, twin, example)
    else:
        choice = choose_for(target)
    return _build(model, twin, target, criterion, choice, skipped, found, example, speed)


def prune(model: nn.Module, batches: Iterable[Batch] | None = None, **options: Any) -> nn.Module:
    """The smaller network: `plan_prune(model, batches, ...).apply()`."""
    return plan_prune(model, batches, **options).apply()


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


def _build(
    model: nn.Module,
    twin: nn.Module,
    target: Target,
    criterion: str,
    choice: Choice,
    skipped: list[Skip],
    found: Calibration,
    example: Inputs,
    speed: Speed | None,
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
        speed,
        pruned,
    )
