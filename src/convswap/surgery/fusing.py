"""Fuse: a trained network as plain convolutions, proven equal.

Order: every unit to its inference form, multi-branch blocks by the method they offer, batch norms into the
convolution before them, parallel convolutions that are only summed into one, packed binary convolutions into chains.
All of it in float64 on a copy, cast back last; then both models run on the same inputs and the largest relative
difference is reported.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FusionError
from .chain import find_chains, find_thresholds
from .graph import read_graph
from .history import append_history
from .observe import check_example, example_input_of
from .recalibrate import recalibrate_batch_norm
from .sites import is_unit, refuse_wrappers, sites
from .steps import Step, apply_step, find_block_hooks

Skipped = tuple[str, str]


@dataclass(frozen=True)
class FusePlan:
    """What a fusion does, worked out and verified on a copy; the given model is untouched until `apply`.

    Attributes:
        steps: the edits in order, as data: `["unit", path]`, `["block", path, method]`, `["fold", source, norm]`,
            `["merge", [paths]]`, `["threshold", norm, convolution, [paths between]]`,
            `["chain", [paths], [[paths between two]]]`.
        skipped: `(module path, reason)` of batch norms, blocks and branches that stay.
        difference: largest relative difference of the outputs.
        precision: what they were compared in: `"float64"`, or the model's own where it refuses float64.
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
        """How many steps of a kind (`"unit"`, `"block"`, `"fold"`, `"merge"`, `"threshold"`, `"chain"`) there are."""
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
            FusionError: in place, when the model as a whole is a unit and so cannot become another object.
        """
        if not inplace:
            return copy.deepcopy(self.fused)
        if any(step[:2] in (["unit", ""], ["block", ""]) for step in self.steps):
            raise FusionError("the model is itself one unit or block and cannot be fused in place; use apply()")
        fused = copy.deepcopy(self.fused)
        self.model._modules.update(fused._modules)
        self.model._parameters.update(fused._parameters)
        self.model.__dict__.update({k: v for k, v in self.fused.__dict__.items() if k.startswith("_convswap")})
        return self.model


def fuse(
    model: nn.Module,
    example_input: Tensor | None = None,
    *,
    tolerance: float = 1e-9,
    recalibrate: Iterable[Tensor] | None = None,
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
    example_input: Tensor | None = None,
    *,
    tolerance: float = 1e-9,
    recalibrate: Iterable[Tensor] | None = None,
) -> FusePlan:
    """Work out and verify a fusion on a copy.

    Args:
        model: in eval mode. Any model, with or without units.
        example_input: (N, C, H, W) of the real size; for a timm model its declared input size is used.
        tolerance: largest relative difference allowed, in float64. A model that cannot run in float64 is compared in
            its own precision, where 1e-4 is allowed (2e-2 for half precision).
        recalibrate: batches of inputs; batch-norm statistics are first re-estimated on them with every unit in
            eval mode. Wanted after training with a stochastic unit such as `circle_mix`.

    Raises:
        FusionError: the model is in train mode, no example input is known, or the difference exceeds the tolerance.
        SurgeryError: the model is wrapped (DDP, compile, ...).
    """
    refuse_wrappers(model)
    check_example(example_input)
    _refuse_train_mode(model)
    example = example_input_of(model) if example_input is None else example_input
    if example is None:
        raise FusionError("fuse needs example_input=, a tensor (N, C, H, W) of the size the model is used with")
    reference = _copy(model)
    if recalibrate is not None:
        recalibrate_batch_norm(reference, recalibrate)
    dtypes = _dtypes(reference)
    reference, inputs, expected, precision = _reference(reference, example)
    if precision != torch.float64:
        tolerance = max(tolerance, 1e-4 if precision == torch.float32 else 2e-2)
    fused, steps, skipped, difference = _fuse_verified(reference, inputs, expected, tolerance)
    name = str(precision).removeprefix("torch.")
    if difference > tolerance:
        raise FusionError(
            f"the fused model differs by {difference:.1e} (relative, {name}), more than tolerance={tolerance:g}; "
            "the model may depend on random numbers or read parameters that fusing changes"
        )
    _restore_dtypes(fused, dtypes)
    if steps:
        append_history(fused, {"kind": "fuse", "steps": steps})
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, fused))
    return FusePlan(tuple(steps), tuple(skipped), difference, before, after, name, fused, model)


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise FusionError(f"the model cannot be copied: {error}") from error


def _reference(model: nn.Module, example: Tensor) -> tuple[nn.Module, list[Tensor], list[list[Tensor]], torch.dtype]:
    """The model to compare with, its inputs and outputs, and their precision: float64 if the model allows it."""
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), example.dtype)
    problem: Exception | None = None
    for dtype in dict.fromkeys((torch.float64, own)):
        reference = copy.deepcopy(model).to(dtype)
        inputs = _test_inputs(example, dtype)
        try:
            return reference, inputs, [_outputs(reference, x) for x in inputs], dtype
        except FusionError:
            raise
        except Exception as error:
            problem = error
    message = str(problem).strip().splitlines()
    raise FusionError(
        f"the model does not accept the example input of shape {tuple(example.shape)}, {example.dtype} on "
        f"{example.device}: {message[0] if message else repr(problem)}"
    ) from problem


def _refuse_train_mode(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if module.training:
            place = f"{path} is" if path else "the model is"
            raise FusionError(f"{place} in train mode, where outputs depend on the batch; call model.eval() first")


def _fuse_verified(
    reference: nn.Module, inputs: list[Tensor], expected: list[list[Tensor]], tolerance: float
) -> tuple[nn.Module, list[Step], list[Skipped], float]:
    """Fuse a copy. What rests on other people's methods, or on rewriting sums, is given up if it breaks equality."""
    blocks = find_block_hooks(reference)
    given_up: list[Skipped] = []
    for use_blocks, use_sums in ((True, True), (False, True), (False, False)):
        last = not (use_blocks or use_sums)
        if use_blocks and not blocks:
            continue
        try:
            model, steps, skipped = _fuse_copy(reference, inputs[0], blocks if use_blocks else [], use_sums)
            difference = max(_relative_difference(e, _outputs(model, x)) for e, x in zip(expected, inputs, strict=True))
            problem = f"changes the output by {difference:.1e}"
        except Exception as error:  # raised by a block's own method or by a model that reads what was merged
            if last:
                raise
            difference, problem = float("inf"), f"fails with {type(error).__name__}: {error}"
        if difference <= tolerance or last:
            break
        if use_blocks:
            given_up += [(path, f"merging blocks by their own {hook}() {problem}") for _, path, hook in blocks]
        else:
            given_up.append(("(the model)", f"merging summed convolutions {problem}"))
    return model, steps, [*given_up, *skipped], difference


def _fuse_copy(
    reference: nn.Module, example: Tensor, blocks: list[Step], use_sums: bool
) -> tuple[nn.Module, list[Step], list[Skipped]]:
    model = copy.deepcopy(reference)
    steps: list[Step] = []
    skipped: list[Skipped] = []

    def do(step: Step) -> None:
        nonlocal model
        model = apply_step(model, step)
        steps.append(step)

    for site in sites(model):
        if is_unit(site.module):
            do(["unit", site.path])
    for step in blocks:
        do(step)
    try:
        graph = read_graph(model, example)
        for edge in graph.foldable:
            do(["fold", edge.source, edge.norm])
    except FusionError as error:
        return model, steps, [*skipped, ("(the model)", f"no batch norm was folded: {error}")]
    for paths in graph.sums if use_sums else ():
        try:
            do(["merge", list(paths)])
        except FusionError as error:
            skipped.append((" + ".join(paths), str(error)))
    for find in (find_thresholds, find_chains):
        for step in find(model, example):
            do(step)
    merged = {path for step in steps if step[0] == "merge" for path in step[1]}
    merged |= {step[1] for step in steps if step[0] == "threshold"}
    skipped += [kept for kept in graph.kept if kept[0] not in merged]
    if graph.unreached:
        few = ", ".join(graph.unreached[:4]) + (", ..." if len(graph.unreached) > 4 else "")
        skipped.append((few, "the example does not reach it: the fusion is proven for inputs like the example only"))
    return model, steps, skipped


def _test_inputs(example: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The example and noise of its shape: an example of zeros would prove nothing."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(example.shape, generator=generator, dtype=torch.float64).to(example.device, dtype)
    return [example.detach().to(dtype), noise]


def _outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    """All tensors of the model's output, whatever its nesting; x is not touched, even by a model that works in place.

    Raises:
        FusionError: there is no tensor to compare, so that nothing could be proven.
    """
    with torch.no_grad():
        output = model(x.clone())
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        output = [getattr(output, field.name) for field in dataclasses.fields(output)]
    tensors = [leaf for leaf in torch.utils._pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.numel()]
    if not tensors:
        raise FusionError(
            f"the model's output ({type(output).__name__}) for an input of shape {tuple(x.shape)} holds no tensor "
            "elements to compare, so a fusion could not be verified"
        )
    return tensors


def _relative_difference(expected: list[Tensor], found: list[Tensor]) -> float:
    """The largest difference relative to the largest value; infinite where shapes or non-finite values differ."""
    if [t.shape for t in expected] != [t.shape for t in found]:
        return float("inf")
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        a, b = a.double(), b.double()
        finite = a.isfinite() & b.isfinite()
        if not torch.equal(a[~finite].nan_to_num(nan=0.5), b[~finite].nan_to_num(nan=0.5)):
            return float("inf")
        if finite.any():
            largest, error = a[finite].abs().max().item(), (a[finite] - b[finite]).abs().max().item()
            worst = max(worst, error / largest if largest else error)
    return worst


def _dtypes(model: nn.Module) -> dict[str, torch.dtype]:
    return {name: t.dtype for name, t in [*model.named_parameters(), *model.named_buffers()] if t.is_floating_point()}


def _restore_dtypes(model: nn.Module, dtypes: dict[str, torch.dtype]) -> None:
    """Cast back: a tensor that was there takes its old dtype, a new one that of its module or of the model."""
    common = next(iter(dtypes.values()), torch.float32)
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        own = next(
            (dtypes[prefix + n] for n in (*module._parameters, *module._buffers) if prefix + n in dtypes), common
        )
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None and tensor.is_floating_point():
                    tensor.data = tensor.data.to(dtypes.get(prefix + name, own))
