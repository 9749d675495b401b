"""`from_conv` keeps what the row declares; `fresh_like` keeps the values that the host drew."""

from __future__ import annotations

import torch
from torch import nn

from ..aids import demand_close, image
from ..case import Case
from ..drawing import Drawn, convolutions, for_drawn
from ..rule import CONVOLUTIONS, demand, rule

_STARTS = ("from_conv", "fresh_like")


@rule(CONVOLUTIONS)
def warm_start_is_as_declared(case: Case) -> None:
    """`from_conv` must keep what `warm_start` declares in every geometry, and leave the host alone."""

    def check(place: Drawn) -> None:
        if case.refuses(place.conv) is None:
            _demand_warm_start(case, place.conv, place.x_NCHW)

    for_drawn(check, 25, place=convolutions(dtypes=(torch.float64,), batches=(2,)))


@rule(CONVOLUTIONS)
def warm_start_is_as_declared_at_home(case: Case) -> None:
    """`from_conv` must keep what `warm_start` declares in the unit's typical places."""
    for geometry in case.geometries():
        conv = nn.Conv2d(**geometry, dtype=torch.float64).eval()
        _demand_warm_start(case, conv, image(conv, size=(11, 10)))


def _demand_warm_start(case: Case, conv: nn.Conv2d, x: torch.Tensor) -> None:
    before = {name: value.clone() for name, value in conv.state_dict().items()}
    unit = case.from_conv(conv)
    demand(not unit.training, "a unit in train mode from a convolution in eval mode")
    for name, value in conv.state_dict().items():
        demand(torch.equal(value, before[name]), f"from_conv changed {name} of the given convolution")
    ours = {p.untyped_storage().data_ptr() for p in unit.parameters()}
    shared = ours & {p.untyped_storage().data_ptr() for p in conv.parameters()}
    demand(not shared, "the unit shares storage with the given convolution; copy the values")
    kind = case.warm_start(conv)
    demand(kind in ("exact", "approximate", "none"), f"warm_start is {kind!r}")
    if kind == "approximate":
        # The promise holds for white noise. On an image smaller than the kernel the padding repeats a few numbers.
        extents = [d * (k - 1) + 1 for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
        x = image(conv, batch=4, size=(2 * extents[0] + 9, 2 * extents[1] + 9))
    with torch.no_grad():
        output, expected = unit(x), conv(x)
    demand(bool(torch.isfinite(output).all()), "the output is not finite")
    if kind == "exact":
        demand_close(output, expected, 1e-10, "the output after an 'exact' start")
    elif kind == "approximate":
        correlation = float(torch.corrcoef(torch.stack([output.flatten(), expected.flatten()]))[0, 1])
        demand(correlation > 0.5, f"after an 'approximate' start the outputs correlate by only {correlation:.2f}")


@rule(CONVOLUTIONS, only=lambda case: case.spec.warm_start == "exact" and not case.options)
def declared_exact_is_exact_by_default(case: Case) -> None:
    """A unit whose row says `warm_start="exact"` must not take that back where `swap` puts it by default."""
    for geometry in case.homes():
        kind = case.warm_start(nn.Conv2d(**geometry))
        demand(kind == "exact", f"warm_start_for says {kind!r} in {geometry}")


@rule(CONVOLUTIONS)
def fresh_like_keeps_the_drawn_values(case: Case) -> None:
    """`fresh_like` must keep the weight and bias the host drew for the convolution."""
    for geometry in case.geometries():
        conv = nn.Conv2d(**geometry)
        nn.init.normal_(conv.weight, std=0.3)
        unit = case.cls.fresh_like(conv, **case.options)
        if case.spec.constant_weight:
            demand(torch.equal(unit.weight, case.build(geometry).weight), "the constant weight differs")
        elif unit.weight.shape[1:] == conv.weight.shape[1:]:  # a unit may have fewer filters
            demand(torch.equal(unit.weight, conv.weight[: len(unit.weight)]), "weight is not the host's")
        if conv.bias is not None and isinstance(getattr(unit, "bias", None), torch.Tensor):
            demand(torch.equal(unit.bias, conv.bias), "bias is not the host's")
        demand(bool(torch.isfinite(unit(image(unit))).all()), "the output is not finite")


@rule(CONVOLUTIONS)
def mode_dtype_and_frozenness_carry_over(case: Case) -> None:
    """`from_conv` and `fresh_like` must take over the convolution's mode, dtype and `requires_grad`."""
    for start in _STARTS:
        build = getattr(case.cls, start)
        conv = nn.Conv2d(**case.homes()[0], dtype=torch.float64).eval().requires_grad_(False)
        unit = build(conv, **case.options)
        demand(not any(p.requires_grad for p in unit.parameters()), f"{start} of a frozen convolution trains")
        demand(not any(module.training for module in unit.modules()), f"{start} left eval mode")
        found = {p.dtype for p in unit.parameters()}
        demand(found <= {torch.float64}, f"{start} of a float64 convolution has parameters of {found}")

        trained = build(nn.Conv2d(**case.homes()[0]).train(), **case.options)
        demand(all(p.requires_grad and p.is_leaf for p in trained.parameters()), f"{start} froze parameters")
        demand(all(module.training for module in trained.modules()), f"{start} left train mode")


@rule(CONVOLUTIONS)
def starts_from_low_precision(case: Case) -> None:
    """`from_conv` and `fresh_like` must work on bfloat16 and float16 convolutions and keep their dtype."""
    for dtype in (torch.bfloat16, torch.float16):
        conv = nn.Conv2d(**case.homes()[0], dtype=dtype).eval()
        unit = case.from_conv(conv)
        found = {p.dtype for p in unit.parameters()}
        demand(found <= {dtype}, f"from_conv of a {dtype} convolution has parameters of {found}")
        x = image(conv)
        if case.warm_start(conv) == "exact":
            demand_close(unit(x), conv(x), 0.1, f"the output after an exact start in {dtype}")
        found = {case.cls.fresh_like(conv, **case.options).weight.dtype}
        demand(found == {dtype}, f"fresh_like of a {dtype} convolution has a weight of {found}")
