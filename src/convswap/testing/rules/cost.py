"""Every unit has a cost, in a forward pass and in a training step, and every operator has a formula."""

from __future__ import annotations

import copy
import sys
from typing import Literal
from unittest import mock

from torch import nn

from ...measure.costs.model import cost
from ..aids import demand_untouched, image, snapshot
from ..case import Case
from ..rule import demand, rule

_SIZE = (8, 8)
_MODES: tuple[Literal["inference", "training"], ...] = ("inference", "training")


@rule()
def every_operator_has_a_cost(case: Case) -> None:
    """`convswap.measure.cost` must know every operator of the unit, in inference and in a training step."""
    for geometry in case.geometries():
        unit = case.build(geometry)
        x = image(unit, size=_SIZE)
        before = snapshot(unit)
        forward = cost(unit, x, fused=False).counts
        step = cost(unit, x, mode="training", input_gradient=True).counts
        demand_untouched(unit, before, "cost()")
        demand(forward.macs + forward.fft > 0, "no multiplication is counted")
        demand((forward.activations > 0) == (forward.macs > 0), "activations and MACs contradict each other")
        demand(forward.bytes_moved > 0, "no byte is counted")
        demand(step.macs > forward.macs, "a training step costs no more MACs than a forward pass")
        demand(step.bytes_moved > forward.bytes_moved, "a training step moves no more bytes than a forward pass")


@rule()
def fused_form_has_a_cost(case: Case) -> None:
    """The fused form must have a cost, no more MACs than the unit, and a plain convolution's where it is one."""
    unit = case.home().eval()
    x = image(unit, size=_SIZE)
    before, after = (cost(module, x, fused=False) for module in (unit, unit.fuse()))
    demand(after.counts.macs <= before.counts.macs, f"{after.counts.macs} MACs fused, {before.counts.macs} before")
    if case.spec.fusion == "conv":
        plain = cost(nn.Conv2d(**case.homes()[0]), x, fused=False)
        demand(after.counts == plain.counts, "the fused convolution's cost differs from the plain one's")
        demand(after.parameters.bits == plain.parameters.bits, "the fused convolution's bits differ from a plain one's")


@rule()
def shapes_alone_say_the_cost(case: Case) -> None:
    """The cost on the meta device must equal the cost of a real pass."""
    for mode in _MODES:
        unit = case.home()
        x = image(unit, size=_SIZE)
        without_memory = cost(unit, x, fused=False, mode=mode)
        before = snapshot(copy.deepcopy(unit))
        with mock.patch.object(sys.modules[cost.__module__], "meta_copy", _refuse):
            for_real = cost(unit, x, fused=False, mode=mode)
        demand_untouched(unit, before, "cost()")
        for name in ("macs", "activations"):
            real, meta = (getattr(found.counts, name) for found in (for_real, without_memory))
            demand(real == meta, f"{name} in {mode}: {meta} on meta, {real} for real")


def _refuse(model: nn.Module) -> nn.Module:
    raise RuntimeError("no meta device here")
