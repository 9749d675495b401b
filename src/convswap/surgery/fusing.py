"""Fuse: a trained network as plain convolutions, proven equal.

The steps, in order: every unit becomes its inference form. Multi-branch blocks merge by the method they offer. Batch
norms fold into the convolution before them. Parallel convolutions that are only summed become one. Average pooling
moves before 1x1 convolutions. Packed binary convolutions become chains. All steps run in float64 on a copy, which is
cast back last. Then both models run on the same inputs, and the largest relative difference is reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..errors import FusionError
from .chain import find_chains, find_thresholds
from .compare import Outputs, in_output, largest_difference, outputs_of, rounding
from .copying import check_copy, copy_model
from .diagnose import why_different
from .history import append_history, carry_history
from .inputs import ExampleInput, Inputs
from .observe import example_input_of
from .parts import read_parts
from .recalibrate import recalibrate_batch_norm
from .reference import dtypes_of, given_outputs, reference_of, refuse_train_mode, restore_dtypes
from .sites import held_elsewhere, is_unit, outside_the_tree, refuse_lazy, refuse_wrappers, sites
from .steps import Step, apply_step, exchanged, find_block_hooks

Skipped = tuple[str, str]


@dataclass(frozen=True)
class FusePlan:
    """What a fusion does, worked out and verified on a copy. The given model is untouched until `apply`.

    Attributes:
        steps: the edits in order, as data: `["unit", path]`, `["block", path, method]`, `["fold", source, norm]`,
            `["merge", [paths], path of the merged one or None]`, `["pool_first", convolution, pooling]`,
            `["threshold", norm, convolution, [paths between]]`,
            `["chain", [paths], [[paths between two]]]`.
        skipped: `(module path, reason)` of batch norms, blocks and branches that stay.
        difference: largest relative difference of the outputs.
        precision: the precision of that comparison: `"float64"`, or the model's own where it refuses float64.
        parameters_before, parameters_after: numbers of parameters.
    """

    steps: tuple[Step, ...]
    skipped: tuple[tuple[str, str], ...]
    difference: float
    parameters_before: int
    parameters_after: int
    precision: str
    fused: nn.Module = field(repr=False)
    model: nn.Module = field(repr=False)

    def count(self, kind: str) -> int:
        """The number of steps of a kind, the first word of a step."""
        return sum(step[0] == kind for step in self.steps)

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain lists and dictionaries."""
        names = ("steps", "skipped", "difference", "parameters_before", "parameters_after", "precision")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        lines = [
            f"fused {self.count('unit')} units, {self.count('block')} blocks by their own method, "
            f"{self.count('fold')} batch norms, {self.count('merge')} sums of parallel convolutions",
            f"parameters {self.parameters_before:,} -> {self.parameters_after:,}; "
            f"largest relative difference in {self.precision} {self.difference:.1e}",
        ]
        if self.count("pool_first"):
            lines.insert(1, f"average pooling moved before {self.count('pool_first')} 1x1 convolutions")
        if self.count("threshold"):
            lines.insert(1, f"{self.count('threshold')} batch norms became thresholds of packed binary convolutions")
        if self.count("chain"):
            joined = sum(len(step[1]) for step in self.steps if step[0] == "chain")
            lines.insert(1, f"joined {joined} packed binary convolutions into {self.count('chain')} chains of bits")
        if self.skipped:
            lines += [
                f"left as they are: {len(self.skipped)}",
                *(f"  {path}: {reason}" for path, reason in self.skipped),
            ]
        return "\n".join(lines)

    def apply(self, *, inplace: bool = False) -> nn.Module:
        """The fused model: a new one, or the given one edited in place.

        Raises:
            FusionError: `inplace` was asked for, but the model as a whole is a unit and cannot become another object.
        """
        if not inplace:
            return copy_model(self.fused, FusionError)
        if any(step[:2] in (["unit", ""], ["block", ""]) for step in self.steps):
            raise FusionError("the model is itself one unit or block and cannot be fused in place; use apply()")
        fused = copy_model(self.fused, FusionError)
        self.model._modules.update(fused._modules)
        self.model._parameters.update(fused._parameters)
        self.model.__dict__.update({k: v for k, v in self.fused.__dict__.items() if k.startswith("_convswap")})
        return self.model


def fuse(
    model: nn.Module,
    example_input: ExampleInput | None = None,
    *,
    tolerance: float = 1e-9,
    recalibrate: Iterable[ExampleInput] | None = None,
) -> nn.Module:
    """The model in its inference form, verified: `plan_fuse(...).apply()`.

    >>> from torch import nn, randn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()).eval()
    >>> fuse(net, randn(1, 3, 8, 8))
    Sequential(
      (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
      (1): Identity()
      (2): ReLU()
    )
    """
    return plan_fuse(model, example_input, tolerance=tolerance, recalibrate=recalibrate).apply()


def plan_fuse(
    model: nn.Module,
    example_input: ExampleInput | None = None,
    *,
    tolerance: float = 1e-9,
    recalibrate: Iterable[ExampleInput] | None = None,
) -> FusePlan:
    """Work out and verify a fusion on a copy.

    Args:
        model: in eval mode. Any model, with or without units.
        example_input: (N, C, H, W) of the real size, or another form that the model takes (`convswap.surgery.inputs`);
            for a timm model its declared input size is used.
        tolerance: largest relative difference allowed, in float64. A model that cannot run in float64 is compared in
            its own precision, where 1e-4 is allowed (2e-2 for half precision).
        recalibrate: batches of inputs. Batch-norm statistics are first re-estimated on them, with every unit in
            eval mode. Use it after training with a stochastic unit such as `circle_mix`.

    Raises:
        FusionError: the model is in train mode, no example input is known, or the difference exceeds the tolerance.
        SurgeryError: the model is wrapped (DDP, compile, ...).
    """
    refuse_wrappers(model)
    refuse_lazy(model)
    refuse_train_mode(model)
    example = example_input_of(model) if example_input is None else Inputs.of(example_input, model)
    if example is None:
        raise FusionError("fuse needs example_input=, a tensor (N, C, H, W) of the size the model is used with")
    reference = copy_model(model, FusionError)
    check_copy(given_outputs(model, example), model, reference, example, FusionError)
    if recalibrate is not None:
        recalibrate_batch_norm(reference, recalibrate)
    dtypes = dtypes_of(reference)
    reference, inputs, expected, precision = reference_of(reference, example)
    if precision != torch.float64:
        tolerance = max(tolerance, rounding(precision))
    fused, steps, skipped, (difference, path) = _fuse_verified(reference, inputs, expected, tolerance)
    name = str(precision).removeprefix("torch.")
    if difference > tolerance:
        raise FusionError(
            f"the fused model differs by {difference:.1e}{in_output(path)} (relative, {name}), more than "
            f"tolerance={tolerance:g}: {why_different(reference, inputs, tolerance)}"
        )
    restore_dtypes(fused, dtypes)
    if steps:
        carry_history(model, fused)  # a model that is itself a unit is another object now
        append_history(fused, {"kind": "fuse", "steps": steps})
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, fused))
    return FusePlan(tuple(steps), tuple(skipped), difference, before, after, name, fused, model)


# What is tried in turn: blocks' own methods, sums and poolings rewritten, and parts read alone where no export of the
# whole works.
_ATTEMPTS = (
    (True, True, True),
    (True, False, True),
    (False, True, True),
    (False, False, True),
    (False, False, False),
)


def _fuse_verified(
    reference: nn.Module, inputs: list[Inputs], expected: list[Outputs], tolerance: float
) -> tuple[nn.Module, list[Step], list[Skipped], tuple[float, str]]:
    """Fuse a copy. Steps by other people's methods, and rewritten sums and poolings, are given up if they break it."""
    blocks = find_block_hooks(reference)
    problems: dict[tuple[bool, bool, bool], str] = {}
    for attempt in _ATTEMPTS:
        use_blocks, rewrite, use_parts = attempt
        last = attempt == _ATTEMPTS[-1]
        if use_blocks and not blocks:
            continue
        try:
            model, steps, skipped = _fuse_copy(
                reference, inputs[0], blocks if use_blocks else [], rewrite, use_parts=use_parts
            )
            worst = max(largest_difference(e, outputs_of(model, x)) for e, x in zip(expected, inputs, strict=True))
            problem = f"changes the output by {worst[0]:.1e}"
        except Exception as error:  # raised by a block's own method, or by a model that reads a merged module
            if last:
                raise
            worst, problem = (float("inf"), ""), f"fails with {type(error).__name__}: {error}"
        if worst[0] <= tolerance or last:
            break
        problems[attempt] = problem
    given_up: list[Skipped] = []
    if blocks and not use_blocks:
        reason = problems[True, False, True]
        given_up += [(path, f"merging blocks by their own {hook}() {reason}") for _, path, hook in blocks]
    if not rewrite:
        problem = problems[use_blocks, True, True]
        given_up.append(("(the model)", f"merging summed convolutions, or pooling first, {problem}"))
    if not use_parts:
        why = why_different(reference, inputs, tolerance)
        given_up.append(("(the model)", f"folding in parts {problems[False, False, True]}: {why}"))
    return model, steps, [*given_up, *skipped], worst


def _fuse_copy(
    reference: nn.Module, inputs: Inputs, blocks: list[Step], rewrite: bool, *, use_parts: bool
) -> tuple[nn.Module, list[Step], list[Skipped]]:
    model = copy_model(reference, FusionError)
    steps: list[Step] = []
    skipped: list[Skipped] = []

    def do(step: Step) -> None:
        nonlocal model
        held = held_elsewhere(model)
        for path in exchanged(step):
            where = held.get(id(model.get_submodule(path)))
            if where is not None:
                skipped.append((path, outside_the_tree(where)))
                return
        model = apply_step(model, step)
        steps.append(step)

    for site in sites(model):
        if is_unit(site.module):
            do(["unit", site.path])
    for step in blocks:
        do(step)
    graph = read_parts(model, inputs, alone=use_parts)
    for edge in graph.foldable:
        do(["fold", edge.source, edge.norm])
    for paths, at in graph.sums if rewrite else ():
        try:
            do(["merge", list(paths), at])
        except FusionError as error:
            skipped.append((" + ".join(paths), str(error)))
    for pair in graph.pooled if rewrite else ():
        do(["pool_first", *pair])
    for find in (find_thresholds, find_chains):
        try:
            found = find(model, inputs)
        except FusionError as error:
            skipped.append(("(the model)", f"packed binary convolutions stay single: {error}"))
            break
        for step in found:
            do(step)
    merged = {path for step in steps if step[0] == "merge" for path in step[1]}
    merged |= {step[1] for step in steps if step[0] == "threshold"}
    skipped += [kept for kept in (*graph.kept, *graph.unread) if kept[0] not in merged]
    if graph.unreached:
        few = ", ".join(graph.unreached[:4]) + (", ..." if len(graph.unreached) > 4 else "")
        skipped.append((few, "the example does not reach it: the fusion is proven for inputs like the example only"))
    return model, steps, skipped
