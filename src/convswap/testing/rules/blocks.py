"""The rules for block units alone: exact shapes, honest refusals, real networks."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import nn

from ...surgery import fuse, plan_swap
from ...units import Place
from ..aids import demand_close, image
from ..case import Case
from ..drawing import for_drawn, places
from ..rule import NotApplicable, demand, rule
from .constructor import raised
from .saving import demand_saved

BLOCK = ("block",)


@rule(BLOCK)
def shape_is_that_of_the_place(case: Case) -> None:
    """A block must map (N, in, H, W) to (N, out, ceil(H / stride), ceil(W / stride)), or `supports` must refuse."""

    def check(place: Place, batch: int, height: int, width: int) -> None:
        if case.spec.replaces == "stem":  # a stem has few channels and strides, and the host's own output size
            place = Place(3, 64, 4, kind="stem")
        reason = case.cls.supports(place, **case.options)
        if reason is not None:
            demand(bool(reason.strip()), "supports() gives an empty reason")
            raised("at() in a refused place", ValueError, lambda: case.cls.at(place, **case.options), reason)
            return
        unit = case.cls.at(place, **case.options).eval()
        output = unit(torch.randn(batch, place.in_channels, height, width))
        expected = (batch, place.out_channels, -(-height // place.stride), -(-width // place.stride))
        demand(tuple(output.shape) == expected, f"shape {tuple(output.shape)}, must be {expected}")
        demand(bool(torch.isfinite(output).all()), "the output is not finite")

    sizes = st.integers(1, 9)
    for_drawn(check, 15, place=places(), batch=st.sampled_from([0, 1, 2]), height=sizes, width=sizes)


@rule(BLOCK)
def takes_device_dtype_and_mode_of_the_place(case: Case) -> None:
    """`at` must build the unit with the place's device, dtype and mode."""
    geometry = case.homes()[0]
    unit = case.cls.at(Place(**geometry, dtype=torch.float64, training=False), **case.options)
    found = {p.dtype for p in unit.parameters()}
    demand(found == {torch.float64}, f"parameters of {found} where float64 stood")
    demand(not any(module.training for module in unit.modules()), "train mode where eval mode stood")
    meta = case.cls.at(Place(**geometry, device="meta"), **case.options)
    demand(all(t.is_meta for t in (*meta.parameters(), *meta.buffers())), "tensors off the meta device")


@rule(BLOCK)
def images_of_a_batch_do_not_mix_in_evaluation(case: Case) -> None:
    """In evaluation one image must give the same output alone as in a batch."""
    unit = case.home(dtype=torch.float64).eval()
    x = image(unit, batch=3)
    demand_close(unit(x[1:2]), unit(x)[1:2], 1e-12, "the output of one image alone")


@rule(BLOCK, only=lambda case: not case.options)
def swaps_into_a_network_trains_fuses_and_saves(case: Case) -> None:
    """`swap` must put the block into a residual network that trains, fuses to an equal one, and saves and loads."""
    model, size = _host(case)
    x = torch.randn(4, 3, *size)
    plan = plan_swap(model, case.spec.name, example_input=x, **case.options)
    demand(bool(plan.replacements), "nothing was replaced")
    for row in plan.replacements:
        demand(row.start == "none" and row.place is not None, f"the plan promises a start for {row.path}")
    swapped = plan.apply()
    for row in plan.replacements:
        unit = swapped.get_submodule(row.path)
        demand(type(unit) is case.cls, f"{row.path} is a {type(unit).__name__}")
        count = sum(p.numel() for p in unit.parameters())
        demand(count == row.parameters_after, f"{row.path} has {count} parameters, planned {row.parameters_after}")
    optimizer = torch.optim.SGD(swapped.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(swapped(x), torch.arange(4)).backward()
        optimizer.step()
    swapped.eval()
    fused = fuse(swapped, x)
    with torch.no_grad():
        demand_close(fused(x), swapped(x), 1e-4, "the fused network's output")
    demand_saved(swapped, x, "the trained network")
    demand_saved(fused, x, "the trained and fused network")


def _host(case: Case) -> tuple[nn.Module, tuple[int, int]]:
    from ...models import create_model  # only here: the other rules need no network

    if case.spec.replaces != "stem":
        return create_model("cifar_resnet20", num_classes=5), (16, 16)
    try:
        return create_model("resnet18", num_classes=5), (64, 48)
    except ModuleNotFoundError as error:
        raise NotApplicable(f"a network with a stem needs {error.name}, which is not installed") from error
