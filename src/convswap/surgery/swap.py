"""Swap: put a unit in the place of convolutions, in any model."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ..errors import SurgeryError, UsageError, check_choice
from ..units.contract import FeatureUnit, Geometry, WeightUnit
from ..units.registry import UnitSpec, get_unit, spec_of
from .history import append_history, carry_history
from .macs import count_macs
from .observe import Observation, example_input_of, observe
from .plan import Replacement, Skip, SwapReport
from .select import Where, select_sites
from .sites import Site, carry_hooks, refuse_wrappers, replace, why_not_plain

Start = Literal["warm", "fresh"]


@dataclass(frozen=True)
class SwapPlan(SwapReport):
    """What a swap would do. Nothing is changed until `apply()`; `str(plan)` is a table.

    Attributes:
        replacements: the convolutions that would be replaced.
        skipped: selected places that stay, with the reason.
        functional_convolutions: convolutions outside of any module, None without an example input.
        start: `"warm"` or `"fresh"`.
    """

    start: Start = "warm"
    model: nn.Module = field(repr=False, default_factory=nn.Identity)
    example_input: Tensor | None = field(repr=False, default=None)
    output_shapes: dict[str, list[tuple[int, ...]]] = field(repr=False, default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain lists and dictionaries."""
        names = ("unit", "options", "where", "replacements", "skipped", "functional_convolutions")
        return SwapReport(*(getattr(self, n) for n in names)).as_dict() | {"start": self.start}

    __str__ = SwapReport.__str__

    def apply(self, *, inplace: bool = False, optimizer: torch.optim.Optimizer | None = None) -> nn.Module:
        """Carry the plan out.

        Args:
            inplace: edit the given model instead of a copy. A model that is itself a convolution cannot be.
            optimizer: with `inplace`, the optimizer that already holds the model's parameters: the new
                parameters take the old ones' place in their groups (their state starts anew).

        Returns:
            The model with units. Hooks, names, train/eval flags, device, dtype, memory format and
            `requires_grad` are kept.

        Raises:
            SurgeryError: a replaced layer's output shape differs, or the arguments contradict each other.
        """
        if optimizer is not None and not inplace:
            raise SurgeryError("optimizer= was given without inplace=True: a copy's parameters are not the optimizer's")
        root = any(r.path == "" for r in self.replacements)
        if inplace and root:
            raise SurgeryError("the model is itself a convolution and cannot be replaced in place; use apply()")
        model = self.model if inplace else _copy(self.model)
        spec = get_unit(self.unit)
        pairs: list[tuple[nn.Module, nn.Module]] = []
        for replacement in self.replacements:
            paths = (replacement.path, *replacement.other_paths)
            old = model.get_submodule(replacement.path)
            new = build_unit(spec, old, self.start, self.options)
            carry_hooks(old, new)
            model = replace(model, paths, new)
            pairs.append((old, new))
        if root:
            carry_history(self.model, model)
        record = {"kind": "swap", "unit": self.unit, "options": self.options, "start": self.start}
        append_history(model, record | {"paths": [[r.path, *r.other_paths] for r in self.replacements]})
        if optimizer is not None:
            _update_optimizer(optimizer, pairs)
        if self.example_input is not None:
            self._check_shapes(model)
        return model

    def _check_shapes(self, model: nn.Module) -> None:
        """Compare every replaced layer's output shapes in one forward pass with those seen when planning."""
        assert self.example_input is not None
        watched = [Site((r.path,), model.get_submodule(r.path)) for r in self.replacements]
        after = observe(model, self.example_input, watched).outputs
        for site in watched:
            shapes, new_shapes = self.output_shapes.get(site.path), after.get(id(site.module))
            if shapes != new_shapes:
                raise SurgeryError(
                    f"{site.path or 'the model'}: {self.unit} gives output shapes {new_shapes}, not {shapes}"
                )


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise SurgeryError(f"the model cannot be copied ({error}); use apply(inplace=True)") from error


def _update_optimizer(optimizer: torch.optim.Optimizer, pairs: Iterable[tuple[nn.Module, nn.Module]]) -> None:
    """Give each unit's parameters the place of the convolution's weight in its optimizer group."""
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for old, new in pairs:
        group = group_of.get(id(old.weight))
        if group is None:
            raise SurgeryError("the optimizer does not hold the weight of a replaced convolution; pass the right one")
        gone = {id(p) for p in old.parameters()}
        for each in optimizer.param_groups:
            each["params"] = [p for p in each["params"] if id(p) not in gone]
        for p in old.parameters():
            optimizer.state.pop(p, None)
        group["params"].extend(p for p in new.parameters() if p.requires_grad)


def build_unit(spec: UnitSpec, module: nn.Module, start: str, options: dict[str, Any]) -> nn.Module:
    """The unit that takes a convolution's (or another unit's) place, with its memory format."""
    source = module if type(module) is nn.Conv2d else cast(WeightUnit, module).fuse()
    builder = cast(Any, spec.cls).from_conv if start == "warm" else cast(Any, spec.cls).fresh_like
    unit = cast(nn.Module, builder(source, **options))
    weight = source.weight
    if weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous():
        unit.to(memory_format=torch.channels_last)
    return unit


def check_options(spec: UnitSpec, options: dict[str, Any]) -> None:
    """Raise a `UsageError` for an option the unit does not have, with the nearest it has."""
    signature = inspect.signature(spec.cls)
    known = [n for n, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY and n not in ("device", "dtype")]
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"its options are: {', '.join(known) or 'none'}"
            raise UsageError(f"unit {spec.name!r} has no option {name!r}; {hint}")


def _why_not(model: nn.Module, spec: UnitSpec, site: Site, options: dict[str, Any], tied: set[int]) -> str | None:
    module = site.module
    if type(module) is spec.cls and spec.name != "conv" and not options:
        return f"it already is a {spec.name}"
    present = spec_of(module)
    if isinstance(module, FeatureUnit) or (present is not None and present.fusion != "conv"):
        name = present.name if present else type(module).__name__
        return f"it is a {name} unit, which equals no single convolution"
    reason = why_not_plain(module)
    if reason is not None:
        return reason
    if id(module.weight) in tied:
        return "its weight is tied to another module's"
    source = module if type(module) is nn.Conv2d else cast(WeightUnit, module).fuse()
    return cast(Any, spec.cls).supports(source, **options)


def _tied_parameters(model: nn.Module) -> set[int]:
    """Ids of parameters that more than one module object holds."""
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(id(module))
    return {key for key, holders in owners.items() if len(holders) > 1}


def plan_swap(
    model: nn.Module,
    unit: str,
    *,
    where: Where | None = None,
    start: Start = "warm",
    example_input: Tensor | None = None,
    **options: Any,
) -> SwapPlan:
    """Work out what `swap` would do, without changing anything.

    Args:
        model: any `nn.Module`.
        unit: registry name, see `list_units()`.
        where: which convolutions: a selection string (`"3x3 & !first & layer[34].*"`), a predicate
            `(path, conv) -> bool`, or None for the unit's own placement (`default_where`).
        start: `"warm"` starts each unit from its convolution's function (as far as its `warm_start` declares);
            `"fresh"` starts it as for training from scratch, with the weights the host drew.
        example_input: (N, C, H, W); adds MACs to the plan and a shape check to `apply()`. For a timm model
            its declared input size is used.
        options: the unit's options.

    Raises:
        UsageError: unknown unit or option, an option value that is not allowed, a `where` that is malformed or
            matches nothing.
        SurgeryError: everything matched was skipped, or the model is wrapped (DDP, compile, ...).
    """
    spec = get_unit(unit)
    check_options(spec, options)
    check_choice("start", start, ("warm", "fresh"))
    refuse_wrappers(model)
    selection = spec.default_where if where is None else where
    described = selection if isinstance(selection, str) else getattr(selection, "__name__", "a predicate")
    chosen = select_sites(model, selection)
    if not chosen:
        total = len(select_sites(model, "all"))
        raise UsageError(f"where={described!r} matches none of the model's {total} convolutions")
    example = example_input_of(model) if example_input is None else example_input
    seen = observe(model, example, chosen) if example is not None else Observation()
    tied = _tied_parameters(model)
    replacements, skipped = [], []
    for site in chosen:
        reason = _why_not(model, spec, site, options, tied)
        if reason is None:
            replacements.append(_replacement(spec, site, start, options, seen, example))
        else:
            skipped.append(Skip(site.path, reason))
    if not replacements:
        reasons = "; ".join(f"{s.path or 'the model'}: {s.reason}" for s in skipped[:3])
        raise SurgeryError(f"none of the {len(skipped)} selected places can take {unit!r}: {reasons}")
    functional = None if example is None else seen.functional
    shapes = {site.path: seen.outputs[id(site.module)] for site in chosen if id(site.module) in seen.outputs}
    return SwapPlan(
        unit, dict(options), described, tuple(replacements), tuple(skipped), functional, start, model, example, shapes
    )


def _replacement(
    spec: UnitSpec, site: Site, start: Start, options: dict[str, Any], seen: Observation, example: Tensor | None
) -> Replacement:
    with torch.random.fork_rng(devices=[]):  # building the unit draws numbers; a plan must not
        new = build_unit(spec, site.module, start, options)
    before = after = None
    if example is not None:
        shapes = seen.inputs.get(id(site.module), [])
        before = _macs(site.module, shapes, example.shape[0])
        after = _macs(new, shapes, example.shape[0])
    kind = "fresh" if start == "fresh" else _declared_start(spec, site.module, options)
    return Replacement(
        site.path,
        site.paths[1:],
        Geometry.of(site.module).describe(),
        spec.name,
        kind,
        sum(p.numel() for p in site.module.parameters()),
        sum(p.numel() for p in new.parameters()),
        before,
        after,
    )


def _declared_start(spec: UnitSpec, conv: nn.Module, options: dict[str, Any]) -> str:
    refine = getattr(spec.cls, "warm_start_for", None)
    return (refine(conv, **options) if refine is not None else None) or spec.warm_start


def _macs(module: nn.Module, shapes: list[tuple[int, ...]], batch: int) -> int:
    """Per image of the example, over all calls of the module; a call may see several windows of one image."""
    dtype = next(module.parameters()).dtype
    return sum(
        count_macs(module, torch.empty((1, *shape[1:]), device="meta", dtype=dtype)) * shape[0] // batch
        for shape in shapes
    )


def swap(
    model: nn.Module,
    unit: str,
    *,
    where: Where | None = None,
    start: Start = "warm",
    example_input: Tensor | None = None,
    **options: Any,
) -> nn.Module:
    """A copy of the model with `unit` in the place of its convolutions: `plan_swap(...).apply()`.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    >>> type(swap(net, "circle")[2]).__name__
    'CircleConv2d'
    """
    return plan_swap(model, unit, where=where, start=start, example_input=example_input, **options).apply()
