"""Replacing max-pooling by convolutions, as the all-convolutional net does (arXiv:1412.6806).

Two forms of the paper:

- `"strided_conv"` ("Strided-CNN"): the pooling is dropped, and the convolution before it takes over its stride.
- `"conv"` ("All-CNN"): a convolution of the pooling's own kernel and stride stands in its place, with the ReLU of the
  paper's networks, and a BatchNorm where the host has BatchNorm.

No convolution computes a maximum, so neither starts exactly. The plan gives the error of every start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from ...errors import SurgeryError, UsageError, check_choice
from ..compare import outputs_of, relative_difference
from ..copying import copy_model
from ..history import append_history
from ..inputs import ExampleInput, Inputs
from ..macs import count_macs
from ..modes import evaluating
from ..observe import example_input_of, observe
from ..plan import Skip, text_table
from ..selection import select_modules
from ..sites import Site, refuse_lazy, refuse_wrappers
from .forms import ReplacedPool, by_conv, by_stride, perform_pooling, why_not_conv, why_not_strided
from .reading import Pool, read_pools

By = Literal["conv", "strided_conv"]


@dataclass(frozen=True)
class PoolingPlan:
    """What replacing the pooling would do. Nothing is changed until `apply()`. `str(plan)` is a table.

    Attributes:
        by: `"conv"` or `"strided_conv"`.
        where: the selection of pooling modules.
        start: `"warm"` or `"fresh"`.
        pools: the max-poolings that would be replaced.
        skipped: selected ones that stay, with the reason.
        parameters_before, parameters_after, macs_before, macs_after: of the whole network, MACs per image.
        difference: how far the network's output on the example is from the given model's, relative to its largest
            value.
        notes: what else a reader should know.
    """

    by: By
    where: str
    start: str
    pools: tuple[ReplacedPool, ...]
    skipped: tuple[Skip, ...]
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    difference: float
    notes: tuple[str, ...]
    model: nn.Module = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain lists and dictionaries."""
        names = ("by", "where", "start", "parameters_before", "parameters_after", "macs_before", "macs_after")
        return {
            **{name: getattr(self, name) for name in names},
            "pools": [asdict(pool) for pool in self.pools],
            "skipped": [asdict(skip) for skip in self.skipped],
            "difference": self.difference,
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """The plan as JSON."""
        return json.dumps(self.as_dict(), indent=2)

    def __str__(self) -> str:
        rows = [[p.path, p.geometry, p.becomes, f"{p.parameters:,}", f"{p.start_error:.0%}"] for p in self.pools]
        lines = [
            f"replace pooling by {self.by} where {self.where}",
            text_table(["module", "was", "becomes", "parameters", "start off by"], rows, right=(3, 4)),
            f"network: {self.parameters_before:,} -> {self.parameters_after:,} parameters, "
            f"{self.macs_before:,} -> {self.macs_after:,} MACs; output off by {self.difference:.0%} before training",
        ]
        if self.skipped:
            lines += [f"left as they are: {len(self.skipped)}", *(f"  {s.path}: {s.reason}" for s in self.skipped)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def apply(self) -> nn.Module:
        """A copy of the model with the pooling replaced. Train it: no start is exact."""
        record = _record(self.by, self.start, [pool.change for pool in self.pools])
        model = perform_pooling(copy_model(self.model), record)
        append_history(model, record)
        return model


def replace_pooling(
    model: nn.Module,
    by: By = "conv",
    *,
    where: str = "all",
    start: str = "warm",
    batch_norm: bool | None = None,
    example_input: ExampleInput | None = None,
) -> nn.Module:
    """A copy of the model with convolutions in the place of max-pooling: `plan_replace_pooling(...).apply()`.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    >>> replace_pooling(net, "strided_conv", example_input=torch.randn(1, 3, 8, 8))
    Sequential(
      (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
      (1): ReLU()
      (2): Identity()
    )
    """
    return plan_replace_pooling(
        model, by, where=where, start=start, batch_norm=batch_norm, example_input=example_input
    ).apply()


def plan_replace_pooling(
    model: nn.Module,
    by: By = "conv",
    *,
    where: str = "all",
    start: str = "warm",
    batch_norm: bool | None = None,
    example_input: ExampleInput | None = None,
) -> PoolingPlan:
    """Work out what `replace_pooling` would do, without changing anything.

    Args:
        model: any `nn.Module`. The poolings are its `nn.MaxPool2d` modules; average pooling stays.
        by: `"conv"`: `maxpool(k, s, p)` becomes `[relu] [BN] conv(k, s, p)` from C to C channels, with a ReLU where the
            pooling reads rectified maps. `"strided_conv"`: the pooling becomes an identity, and the convolution
            before it gets the product of both strides. Its padding moves so that it looks at the middle of each window.
        where: a selection of pooling modules: `"all"`, `"first"`, `"last"`, wildcards on the path (`"features.*"`).
        start: `"warm"` starts a new convolution as average pooling, `w[o, i] = [o = i] / (k k)`, and keeps the weights
            of a strided one, which then takes one pixel of each window; `"fresh"` draws new convolutions (He et al.).
        batch_norm: whether a BatchNorm follows each new convolution. By default where the model has one anywhere.
        example_input: (N, C, H, W), or another form that the model takes. For a timm model its declared size is used.

    Raises:
        UsageError: an argument is not allowed, the model has no max-pooling module, `where` matches none, or no example
            input is known.
        SurgeryError: no selected pooling can be replaced, or the model is wrapped (DDP, compile, ...).
    """
    check_choice("by", by, ("conv", "strided_conv"))
    check_choice("start", start, ("warm", "fresh"))
    check_choice("batch_norm", batch_norm, (None, True, False))
    refuse_wrappers(model)
    example = example_input_of(model) if example_input is None else Inputs.of(example_input, model)
    if example is None:
        raise UsageError("what stands before a pooling shows in a forward pass: pass example_input=, (N, C, H, W)")
    refuse_lazy(model)
    found, functional = read_pools(model, example)
    notes = _notes(model, functional)
    chosen = _selected(found, where, notes)
    norm = any(isinstance(m, nn.BatchNorm2d) for m in model.modules()) if batch_norm is None else batch_norm
    rows, skipped = [], []
    for pool in chosen:
        reason = pool.reason or (why_not_conv(pool) if by == "conv" else why_not_strided(model, pool))
        if reason:
            skipped.append(Skip(pool.path, reason))
        else:
            rows.append(by_conv(model, pool, norm, start) if by == "conv" else by_stride(model, pool))
    if not rows:
        reasons = "; ".join(f"{skip.path}: {skip.reason}" for skip in skipped[:3])
        raise SurgeryError(f"none of the {len(skipped)} selected max-poolings can be replaced by {by!r}: {reasons}")
    with torch.random.fork_rng(devices=[]):
        changed = perform_pooling(copy_model(model), _record(by, start, [row.change for row in rows]))
    difference = _checked(model, changed, example, rows)
    before, after = (sum(p.numel() for p in each.parameters()) for each in (model, changed))
    macs = (count_macs(model, example), count_macs(changed, example))
    return PoolingPlan(by, where, start, tuple(rows), tuple(skipped), before, after, *macs, difference, notes, model)


def _record(by: str, start: str, changes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"kind": "replace_pooling", "by": by, "start": start, "places": list(changes)}


def _notes(model: nn.Module, functional: int) -> tuple[str, ...]:
    averages = sum(isinstance(module, nn.AvgPool2d) for module in model.modules())
    notes = [f"left alone: {averages} AvgPool2d (only max-pooling is replaced)"] if averages else []
    if functional:
        notes.append(f"{functional} max-poolings per forward pass are function calls, which nothing here can reach")
    return tuple(notes)


def _selected(found: list[Pool], where: str, notes: Sequence[str]) -> list[Pool]:
    beside = f"; {'; '.join(notes)}" if notes else ""
    if not found:
        raise UsageError(f"the model has no nn.MaxPool2d module{beside}")
    chosen = {site.path for site in select_modules([Site((pool.path,), pool.module) for pool in found], where)}
    if not chosen:
        few = ", ".join(pool.path for pool in found[:4]) + (", ..." if len(found) > 4 else "")
        raise UsageError(f"where={where!r} matches none of the model's {len(found)} max-poolings: {few}{beside}")
    return [pool for pool in found if pool.path in chosen]


def _checked(model: nn.Module, changed: nn.Module, example: Inputs, rows: Sequence[ReplacedPool]) -> float:
    """The difference of the networks' outputs. Raises where a place gives maps of another shape than the pooling."""
    shapes = []
    for each in (model, changed):
        watched = [Site((row.path,), each.get_submodule(row.path)) for row in rows]
        seen = observe(each, example, watched)
        shapes.append([seen.outputs.get(id(site.module)) for site in watched])
    for row, was, now in zip(rows, *shapes, strict=True):
        if was != now:
            raise SurgeryError(f"{row.path}: {row.becomes} gives output shapes {now}, not {was}")
    with evaluating(model, changed):
        return relative_difference(outputs_of(model, example), outputs_of(changed, example))
