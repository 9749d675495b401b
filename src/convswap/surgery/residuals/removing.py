"""Remove residual connections: every residual block becomes a chain of convolutions with the same output.

The plan is worked out on shapes alone. `apply` writes the values in float64, and proves that the network's output is
the same before it hands the model back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn

from ...errors import FusionError, SurgeryError, UsageError
from ...units.contract.geometry import Geometry
from ..compare import in_output, largest_difference, outputs_of, rounding
from ..copying import check_copy, copy_model
from ..diagnose import why_different
from ..history import append_history, carry_history
from ..inputs import ExampleInput, Inputs
from ..macs import count_macs_inside, meta_copy
from ..observe import example_input_of
from ..reference import dtypes_of, given_outputs, reference_of, refuse_train_mode, restore_dtypes
from ..selection import Where
from ..sites import refuse_lazy, refuse_wrappers
from .finding import Found, FoundBlock, find_residuals
from .layers import DivisibleSides
from .merging import find_merges, merge
from .plan import RemovalReport, RemovedBlock
from .widening import DOUBLING
from .writing import Record, put_chains


@dataclass(frozen=True)
class RemovalPlan(RemovalReport):
    """What a removal would do and cost. Nothing is changed until `apply()`. `str(plan)` is a table."""

    model: nn.Module = field(repr=False, default_factory=nn.Identity)
    example_input: Inputs | None = field(repr=False, default=None)
    found: tuple[FoundBlock, ...] = field(repr=False, default=())
    record: Record = field(repr=False, default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain lists and dictionaries."""
        names = RemovalReport.__dataclass_fields__
        return RemovalReport(**{name: getattr(self, name) for name in names}).as_dict()

    __str__ = RemovalReport.__str__

    def apply(self, *, inplace: bool = False, tolerance: float = 1e-9) -> nn.Module:
        """The network without these residual connections: a new one, or the given one edited in place.

        Args:
            inplace: edit the given model instead of a copy.
            tolerance: largest relative difference of the outputs allowed, in float64. A model that cannot run in
                float64 is compared in its own precision, where 1e-4 is allowed (2e-2 for half precision).

        Raises:
            FusionError: the outputs differ by more. The given model is as it was.
            SurgeryError: the model was changed since the plan was made.
        """
        return self.apply_measured(inplace=inplace, tolerance=tolerance)[0]

    def apply_measured(self, *, inplace: bool = False, tolerance: float = 1e-9) -> tuple[nn.Module, float, str]:
        """What `apply` returns, the largest relative difference of the outputs, and the precision of the comparison."""
        refuse_train_mode(self.model)
        example = cast(Inputs, self.example_input)
        twin = copy_model(self.model, FusionError)
        check_copy(given_outputs(self.model, example), self.model, twin, example, FusionError)
        dtypes = dtypes_of(twin)
        reference, inputs, expected, precision = reference_of(twin, example)
        removed = self._carry_out(copy_model(reference, FusionError))
        worst, where = max(largest_difference(e, outputs_of(removed, x)) for e, x in zip(expected, inputs, strict=True))
        name = str(precision).removeprefix("torch.")
        if precision != torch.float64:
            tolerance = max(tolerance, rounding(precision))
        if worst > tolerance:
            raise FusionError(
                f"without its residual connections the model differs by {worst:.1e}{in_output(where)} (relative, "
                f"{name}), more than tolerance={tolerance:g}: {why_different(reference, inputs, tolerance)}"
            )
        restore_dtypes(removed, dtypes)
        carry_history(self.model, removed)
        append_history(removed, self.record)
        if not inplace:
            return removed, worst, name
        self.model._modules.update(removed._modules)
        self.model.__dict__.update({k: v for k, v in removed.__dict__.items() if k.startswith("_convswap")})
        return self.model, worst, name

    def _carry_out(self, model: nn.Module) -> nn.Module:
        """Write the chains and products into a model of the plan's structure."""
        try:
            chains = put_chains(model, [(block.path, block.residual) for block in self.found])
        except (AttributeError, KeyError) as error:
            raise SurgeryError(f"the model changed since the plan was made ({error}); make a new plan") from error
        if chains != self.record["chains"]:
            raise SurgeryError("the model changed since the plan was made; make a new plan")
        for pair in self.record["merges"]:
            model = merge(model, pair)
        return model


def remove_residuals(
    model: nn.Module, example_input: ExampleInput | None = None, *, where: Where = "all", tolerance: float = 1e-9
) -> nn.Module:
    """The model without residual connections, verified: `plan_remove_residuals(...).apply()` (arXiv:2111.00687).

    >>> class Block(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
    ...     def forward(self, x):
    ...         return (x + self.conv2(self.conv1(x).relu())).relu()
    >>> remove_residuals(nn.Sequential(nn.ReLU(), Block()).eval(), torch.randn(1, 4, 8, 8))[1]
    Sequential(
      (conv1): Conv2d(4, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
      (act1): ReLU()
      (conv2): Conv2d(8, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
      (act2): ReLU()
    )
    """
    return plan_remove_residuals(model, example_input, where=where).apply(tolerance=tolerance)


def plan_remove_residuals(
    model: nn.Module, example_input: ExampleInput | None = None, *, where: Where = "all"
) -> RemovalPlan:
    """Work out which residual blocks can become chains, and what that costs. Nothing is changed.

    Args:
        model: in eval mode. Any model whose residual blocks are modules with one trunk and one linear shortcut.
        example_input: (N, C, H, W) of the real size, or another form that the model takes (`convswap.surgery.inputs`);
            for a timm model its declared input size is used.
        where: which residual blocks: a selection string (`"layer4.*"`, `"same"`), or a predicate
            `(path, module) -> bool`.

    Raises:
        UsageError: no example input is known, the model has no residual blocks, or `where` matches none of them.
        SurgeryError: no selected block can become a chain, the model is in train mode or wrapped (DDP, compile, ...).
        FusionError: `torch.export` cannot read the model.
    """
    refuse_wrappers(model)
    refuse_lazy(model)
    refuse_train_mode(model)
    example = example_input_of(model) if example_input is None else Inputs.of(example_input, model)
    if example is None:
        raise UsageError(
            "remove_residuals needs example_input=, a tensor (N, C, H, W) of the size the model is used with"
        )
    described = where if isinstance(where, str) else getattr(where, "__name__", "a predicate")
    found = find_residuals(model, example, where, described)
    shapes = meta_copy(model)
    meta = example.map(lambda tensor: tensor.to("meta"))
    paths = [block.path for block in found.blocks]
    before = _costs(shapes, meta, paths)
    chains = put_chains(shapes, [(block.path, block.residual) for block in found.blocks])
    merges = find_merges(shapes, meta, _doubling(shapes, found))
    for pair in merges:
        shapes = merge(shapes, pair)
    after = _costs(shapes, meta, paths)
    rows = [
        RemovedBlock(b.path, b.paths[1:], b.place, _layers(shapes, b.path), **_columns(before, after, b.path))
        for b in found.blocks
    ]
    return RemovalPlan(
        where=described,
        blocks=tuple(rows),
        skipped=found.skipped,
        merged=tuple((first, second) for first, second, _ in merges),
        remaining=found.remaining,
        **_columns(before, after, ""),
        notes=_notes(model, shapes, paths),
        model=model,
        example_input=example,
        found=found.blocks,
        record={"kind": "remove_residuals", "chains": chains, "merges": [list(pair) for pair in merges]},
    )


def _costs(model: nn.Module, inputs: Inputs, paths: list[str]) -> dict[str, tuple[int, int]]:
    """Parameters and multiply-accumulates of the whole ("") and of the modules at these paths."""
    macs = count_macs_inside(model, inputs, paths)
    return {path: (sum(p.numel() for p in model.get_submodule(path).parameters()), macs[path]) for path in macs}


def _columns(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]], path: str) -> dict[str, int]:
    names = ("parameters_before", "macs_before", "parameters_after", "macs_after")
    return dict(zip(names, (*before[path], *after[path]), strict=True))


def _doubling(model: nn.Module, found: Found) -> set[str]:
    """The convolutions that only double a map in front of a chain."""
    paths = [f"{b.path}.{name}" for b in found.blocks for name, _ in model.get_submodule(b.path).named_children()]
    return {path for path in paths if path.rpartition(".")[2].startswith(DOUBLING)}


def _layers(model: nn.Module, path: str) -> tuple[str, ...]:
    layers = model.get_submodule(path).children()
    return tuple(Geometry.of(layer).describe() for layer in layers if isinstance(layer, nn.Conv2d))


def _notes(model: nn.Module, after: nn.Module, paths: list[str]) -> tuple[str, ...]:
    """What the chains do not keep, and where they are equal for some sizes of images only."""
    inside = [module for path in paths for module in model.get_submodule(path).modules()]
    notes = []
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in inside):
        notes.append("the batch norms of these blocks are folded; fine-tuning goes on without them")
    random = [m for m in inside if any(getattr(m, name, 0) for name in ("drop_prob", "p"))]
    if random:
        kinds = ", ".join(sorted({type(module).__name__ for module in random}))
        notes.append(f"{kinds} inside of these blocks is gone: it does nothing in evaluation")
    sides = [path for path in paths if any(isinstance(m, DivisibleSides) for m in after.get_submodule(path).children())]
    if sides:
        notes.append(
            f"{', '.join(sides)} refuse maps whose sides the stride does not divide: an average pool stood there"
        )
    return tuple(notes)
