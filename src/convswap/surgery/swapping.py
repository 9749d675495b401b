"""Swap: put units in the place of convolutions, residual blocks or stages, in any model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

from torch import nn

from ..errors import UsageError
from .inputs import ExampleInput
from .mixing import MixedPlan, plan_mixture
from .mixture import Mixture
from .selection import Where
from .swap_plan import Start, SwapPlan, plan_one_unit


@overload
def plan_swap(
    model: nn.Module,
    unit: str,
    *,
    where: Where | None = None,
    start: Start = "warm",
    example_input: ExampleInput | None = None,
    **options: Any,
) -> SwapPlan: ...


@overload
def plan_swap(
    model: nn.Module,
    unit: Mapping[str, Any] | Mixture,
    *,
    start: Start = "warm",
    example_input: ExampleInput | None = None,
) -> MixedPlan: ...


def plan_swap(
    model: nn.Module,
    unit: str | Mapping[str, Any] | Mixture,
    *,
    where: Where | None = None,
    start: Start = "warm",
    example_input: ExampleInput | None = None,
    **options: Any,
) -> SwapPlan | MixedPlan:
    """Work out what `swap` would do, without changing anything.

    Args:
        model: any `nn.Module`.
        unit: registry name, see `list_units()`. Or several units, each with its places:
            `{"layer1.*": "circle", "layer[34].*": ("ic", {"gate": "closed"})}`, see `Mixture`.
        where: which convolutions (for a block unit: which residual blocks or stages): a selection string
            (`"3x3 & !first & layer[34].*"`), a predicate `(path, module) -> bool`, or None for the unit's own
            placement (`default_where`).
        start: `"warm"` starts each unit from its convolution's function (as far as its `warm_start` declares);
            `"fresh"` starts it as for training from scratch, with the weights the host drew.
        example_input: (N, C, H, W), or another form that the model takes (`convswap.surgery.inputs`); adds MACs to the
            plan and a shape check to `apply()`. For a timm model its declared input size is used. A block unit needs
            one: blocks are found by watching a forward pass.
        options: the unit's options.

    Raises:
        UsageError: unknown unit or option, an option value that is not allowed, a `where` that is malformed or
            matches nothing, no example input where one is needed.
        SurgeryError: everything matched was skipped, two units claim one place, or the model is wrapped (DDP, compile,
            ...).
    """
    return _plan(model, unit, where, start, example_input, options)


def _plan(
    model: nn.Module,
    unit: str | Mapping[str, Any] | Mixture,
    where: Where | None,
    start: Start,
    example_input: ExampleInput | None,
    options: dict[str, Any],
) -> SwapPlan | MixedPlan:
    if isinstance(unit, str):
        return plan_one_unit(model, unit, options, where, start, example_input)
    given = (["where"] if where is not None else []) + list(options)
    if given:
        raise UsageError(
            f"{given[0]}= was given beside several units; write selections and options into the mapping, as in "
            "{'layer1.*': 'circle', 'layer2.*': ('ic', {'gate': 'closed'})}"
        )
    return plan_mixture(model, Mixture.of(unit), start, example_input)


def swap(
    model: nn.Module,
    unit: str | Mapping[str, Any] | Mixture,
    *,
    where: Where | None = None,
    start: Start = "warm",
    example_input: ExampleInput | None = None,
    **options: Any,
) -> nn.Module:
    """A copy of the model with `unit`, or several units, in the place of its convolutions: `plan_swap(...).apply()`.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    >>> type(swap(net, "circle")[2]).__name__
    'CircleConv2d'
    """
    return _plan(model, unit, where, start, example_input, options).apply()
