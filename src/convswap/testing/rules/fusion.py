"""`fuse()` gives the declared form and the same function, and changes nothing."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ...units import Geometry
from ..aids import (
    demand_close,
    demand_untouched,
    flops,
    image,
    lived_in,
    randomize_batch_norms,
    snapshot,
    train_steps,
)
from ..case import Case
from ..drawing import Drawn, convolutions, for_drawn
from ..rule import CONVOLUTIONS, demand, rule

_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}


@rule()
def fused_is_equal_and_of_the_declared_form(case: Case) -> None:
    """`fuse()` must compute the unit's function, have the form the row's `fusion` says, and leave the unit alone."""
    for dtype, tolerance in _TOLERANCES.items():
        for geometry in case.geometries():
            unit = lived_in(case, geometry, dtype)
            before = snapshot(unit)
            fused = unit.fuse()
            demand_untouched(unit, before, "fuse()")
            x = image(unit)
            demand_close(fused(x), unit(x), tolerance, f"the fused output in {dtype} in {geometry}")
            if case.spec.fusion == "conv":
                demand(type(fused) is nn.Conv2d, f"fusion='conv', but fuse() gives a {type(fused).__name__}")
                plain = flops(nn.Conv2d(**geometry, dtype=dtype), x)
                demand(flops(fused, x) == plain, "the fused convolution costs more than the plain one")
            elif case.spec.fusion == "cheaper":
                demand(flops(fused, x) <= flops(unit, x), "fusion='cheaper', but the fused form costs more")
            found = {p.dtype for p in fused.parameters()}
            demand(found <= {dtype}, f"the fused form of a {dtype} unit has parameters of {found}")


@rule(CONVOLUTIONS)
def fused_is_equal_in_any_geometry(case: Case) -> None:
    """`fuse()` must compute the unit's function in every geometry the unit supports."""

    def check(place: Drawn) -> None:
        if case.refuses(place.conv) is not None:
            return
        unit = case.build(Geometry.of(place.conv).arguments(), dtype=torch.float64)
        with torch.no_grad():
            for parameter in unit.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        randomize_batch_norms(unit)
        unit.eval()
        demand_close(unit.fuse()(place.x_NCHW), unit(place.x_NCHW), 1e-10, "the fused output")

    for_drawn(check, 25, place=convolutions(dtypes=(torch.float64,), batches=(2,)))


@rule()
def fused_keeps_mode_and_trainability(case: Case) -> None:
    """The fused form must have the unit's mode and, where it is one convolution, its trainability."""
    for train in (False, True):
        unit = case.home().train(train)
        fused = unit.fuse()
        demand(all(module.training == train for module in fused.modules()), "fuse() changes the mode")
        demand(all(p.is_leaf for p in fused.parameters()), "a parameter of the fused form is not a leaf")
        if case.spec.fusion == "conv" and not case.spec.constant_weight:  # other forms need not be trainable
            demand(all(p.requires_grad for p in fused.parameters()), "the fused convolution cannot be trained")
        frozen = unit.requires_grad_(False).fuse()
        demand(not any(p.requires_grad for p in frozen.parameters()), "the fused form of a frozen unit trains")


@rule()
def fused_shares_no_storage(case: Case) -> None:
    """The fused form must share no memory with the unit."""
    unit = case.home().eval()
    fused = unit.fuse()
    ours, theirs = (
        {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers()) if t.numel()}
        for module in (unit, fused)
    )
    demand(not ours & theirs, "parameters or buffers share memory; copy them")
    before = fused(x := image(unit))
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.zero_()
    demand(torch.equal(fused(x), before), "the fused form changes with the unit's parameters")


@rule()
def deepcopy_then_fuse_leaves_both_usable(case: Case) -> None:
    """After `deepcopy` and `fuse()` the unit, its copy and the fused form must go on independently."""
    unit = lived_in(case, dtype=torch.float64)
    x = image(unit)
    expected = unit(x)
    twin = copy.deepcopy(unit)
    fused = twin.fuse()
    for name, module in (("the unit", unit), ("the copy", twin), ("the fused form", fused)):
        demand_close(module(x), expected, 1e-10, f"the output of {name}")
    for module in (twin, unit):
        train_steps(module, steps=1)
    demand_close(fused(x), expected, 1e-10, "the fused output after training the unit")
    demand(unit.state_dict().keys() == twin.state_dict().keys(), "fuse() changed the keys of the state dict")


@rule()
def fuses_in_low_precision(case: Case) -> None:
    """A bfloat16 or float16 unit must fuse to that dtype, close to what it computes in float64."""
    for dtype in (torch.bfloat16, torch.float16):
        torch.manual_seed(0)
        exact = lived_in(case, dtype=torch.float64)
        unit = copy.deepcopy(exact).to(dtype)
        fused = unit.fuse()
        found = {p.dtype for p in fused.parameters()}
        demand(found <= {dtype}, f"the fused form of a {dtype} unit has parameters of {found}")
        x = image(unit)
        demand_close(fused(x), exact(x.double()), 0.1, f"the fused output in {dtype}")


@rule()
def flops_are_countable(case: Case) -> None:
    """torch's FlopCounterMode must count more than nothing; register a formula for an operator of your own."""
    for geometry in case.geometries():
        unit = case.build(geometry).eval()
        demand(flops(unit, image(unit, batch=1)) > 0, f"0 operations counted in {geometry}")
