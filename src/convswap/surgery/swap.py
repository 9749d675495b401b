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
from .observe import Observation, check_example, example_input_of, observe
from .plan import Replacement, Skip, SwapReport
from .select import Where, select_sites
from .sites import Site, carry_hooks, held_elsewhere, refuse_wrappers, replace, why_not_plain

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
    modules: tuple[nn.Module, ...] = field(repr=False, default=())

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain lists and dictionaries."""
        names = ("unit", "options", "where", "replacements", "skipped", "functional_convolutions")
        return SwapReport(*(getattr(self, n) for n in names)).as_dict() | {"start": self.start}

    __str__ = SwapReport.__str__

    def apply(self, *, inplace: bool = False, optimizer: torch.optim.Optimizer | None = None) -> nn.Module:
        """Carry the plan out.

        Args:
            inplace: edit the given model instead of a copy. A model that is itself a convolution cannot be.
            optimizer: with `inplace`, the optimizer that already holds the model's parameters: each new
                parameter takes the place of the old one of its name (its state starts anew); others join the
                weight's group, or one without weight decay where the unit wants that.

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
        for replacement, module in zip(self.replacements, self.modules, strict=True):
            if self.model.get_submodule(replacement.path) is not module:
                raise SurgeryError(f"{replacement.path} changed since the plan was made; call plan_swap again")
        spec = get_unit(self.unit)
        if optimizer is not None:
            _check_optimizer(optimizer, self.modules)
        model = self.model if inplace else _copy(self.model)
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
            _update_optimizer(optimizer, pairs, spec.no_weight_decay)
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


def _check_optimizer(optimizer: torch.optim.Optimizer, modules: Iterable[nn.Module]) -> None:
    """Raise before anything is edited if the optimizer is not the one that trains these convolutions."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if any(p.requires_grad and id(p) not in held for module in modules for p in module.parameters()):
        raise SurgeryError("the optimizer does not hold the parameters of a replaced convolution; pass the right one")


def _update_optimizer(
    optimizer: torch.optim.Optimizer, pairs: Iterable[tuple[nn.Module, nn.Module]], undecayed: frozenset[str]
) -> None:
    """Give each trainable parameter of a unit the group of the old one of its name, else a fitting one."""
    for old, new in pairs:
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        by_name = {name: groups[id(p)] for name, p in old.named_parameters() if id(p) in groups}
        gone = {id(p) for p in old.parameters()}
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in gone]
        for p in old.parameters():
            optimizer.state.pop(p, None)
        for name, p in new.named_parameters():
            if not p.requires_grad:
                continue
            home = by_name.get(name) or by_name.get("weight") or optimizer.param_groups[0]
            if name not in by_name and name in undecayed and home.get("weight_decay"):
                options = {key: value for key, value in home.items() if key != "params"}
                optimizer.add_param_group({**options, "params": [p], "weight_decay": 0.0})
            else:
                home["params"].append(p)


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


def _why_not(spec: UnitSpec, site: Site, options: dict[str, Any], tied: set[int], held: dict[int, str]) -> str | None:
    module = site.module
    if type(module) is spec.cls and spec.name != "conv" and not options:
        return f"it already is a {spec.name}"
    present = spec_of(module)
    if (present is None and isinstance(module, FeatureUnit)) or (present is not None and present.fusion != "conv"):
        name = present.name if present else type(module).__name__
        return f"it is a {name} unit, which equals no single convolution"
    reason = why_not_plain(module)
    if reason is not None:
        return reason
    if id(module.weight) in tied:
        return "its weight is tied to another module's"
    if id(module) in held:
        return f"it also stands in {held[id(module)]}, outside of the module tree; use nn.ModuleList or nn.ModuleDict"
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
    check_example(example_input)
    selection = spec.default_where if where is None else where
    described = selection if isinstance(selection, str) else getattr(selection, "__name__", "a predicate")
    chosen = select_sites(model, selection)
    if not chosen:
        total = len(select_sites(model, "all"))
        raise UsageError(f"where={described!r} matches none of the model's {total} convolutions")
    example, seen = _observe(model, example_input, chosen)
    tied, held = _tied_parameters(model), held_elsewhere(model)
    replacements: list[Replacement] = []
    skipped: list[Skip] = []
    places: list[nn.Module] = []
    for site in chosen:
        reason = _why_not(spec, site, options, tied, held)
        if reason is None and example is not None and id(site.module) not in seen.inputs:
            reason = "a pass over the example does not call it; its weight may be read directly"
        if reason is None:
            places.append(site.module)
            replacements.append(_replacement(spec, site, start, options, seen, example))
        else:
            skipped.append(Skip(site.path, reason))
    if not replacements:
        reasons = "; ".join(f"{s.path or 'the model'}: {s.reason}" for s in skipped[:3])
        raise SurgeryError(f"none of the {len(skipped)} selected places can take {unit!r}: {reasons}")
    functional = None if example is None else seen.functional
    shapes = {site.path: seen.outputs[id(site.module)] for site in chosen if id(site.module) in seen.outputs}
    return SwapPlan(
        unit,
        dict(options),
        described,
        tuple(replacements),
        tuple(skipped),
        functional,
        start,
        model,
        example,
        shapes,
        tuple(places),
    )


def _observe(model: nn.Module, example_input: Tensor | None, chosen: list[Site]) -> tuple[Tensor | None, Observation]:
    """A pass over the example; one that was only guessed and is not accepted counts as none."""
    example = example_input_of(model) if example_input is None else example_input
    if example is None:
        return None, Observation()
    try:
        return example, observe(model, example, chosen)
    except SurgeryError:
        if example_input is not None:
            raise
        return None, Observation()


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
    kind = "fresh" if start == "fresh" else _declared_start(spec, site.module, options, new)
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


def _declared_start(spec: UnitSpec, conv: nn.Module, options: dict[str, Any], new: nn.Module) -> str:
    refine = getattr(spec.cls, "warm_start_for", None)
    declared = (refine(conv, **options) if refine is not None else None) or spec.warm_start
    if declared == "exact" and spec.kind == "weight" and type(conv) is nn.Conv2d and not conv.weight.is_meta:
        # in half precision the rounding of the unit's own weights can be far larger than that of the convolution's
        old, fused = conv.weight.double(), cast(WeightUnit, new).fuse().weight.double()
        if (old - fused).abs().max() > 2e-3 * old.abs().max():
            return "approximate"
    return declared


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
