"""`from_conv` keeps of a convolution what the row declares; `fresh_like` keeps the values its host drew."""

from __future__ import annotations

import pytest
import torch
from contract_cases import CONVOLUTIONS, Case, difference, each_convolution, image
from contract_geometry import Drawn, drawn, geometry_settings
from hypothesis import given
from torch import nn


@each_convolution
@given(place=drawn(dtypes=(torch.float64,), batches=(2,)))
@geometry_settings
def test_warm_start_is_as_declared(case: Case, place: Drawn) -> None:
    if case.refuses(place.conv) is None:
        assert_warm_start(case, place.conv, place.x_NCHW)


@each_convolution
def test_warm_start_is_as_declared_at_home(case: Case) -> None:
    for geometry in case.geometries():
        conv = nn.Conv2d(**geometry, dtype=torch.float64).eval()
        assert_warm_start(case, conv, image(conv, size=(11, 10)))


def assert_warm_start(case: Case, conv: nn.Conv2d, x: torch.Tensor) -> None:
    before = {name: value.clone() for name, value in conv.state_dict().items()}
    unit = case.from_conv(conv)
    assert not unit.training
    for name, value in conv.state_dict().items():
        assert torch.equal(value, before[name]), "the given convolution was changed"
    ours = {p.untyped_storage().data_ptr() for p in unit.parameters()}
    assert not ours & {p.untyped_storage().data_ptr() for p in conv.parameters()}, "shares storage with the original"
    kind = case.warm_start(conv)
    assert kind in ("exact", "approximate", "none")
    if kind == "approximate":
        # The promise is one for white noise: on an image smaller than the kernel the padding repeats a few numbers.
        extents = [d * (k - 1) + 1 for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
        x = image(conv, batch=4, size=(2 * extents[0] + 9, 2 * extents[1] + 9))
    with torch.no_grad():
        output, expected = unit(x), conv(x)
    assert torch.isfinite(output).all()
    if kind == "exact":
        assert difference(output, expected) < 1e-10
    elif kind == "approximate":
        pair = torch.stack([output.flatten(), expected.flatten()])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.5


@pytest.mark.parametrize("case", [c for c in CONVOLUTIONS if c.spec.warm_start == "exact" and not c.options], ids=str)
def test_declared_exact_is_exact_in_the_default_placement(case: Case) -> None:
    """A unit may refine its promise per geometry, but not take it back where `swap` puts it by default."""
    for geometry in case.homes():
        assert case.warm_start(nn.Conv2d(**geometry)) == "exact"


@each_convolution
def test_fresh_like_keeps_the_values_the_host_drew(case: Case) -> None:
    for geometry in case.geometries():
        conv = nn.Conv2d(**geometry)
        nn.init.normal_(conv.weight, std=0.3)
        unit = case.cls.fresh_like(conv, **case.options)
        if case.spec.constant_weight:
            assert torch.equal(unit.weight, case.build(geometry).weight)
        elif unit.weight.shape[1:] == conv.weight.shape[1:]:
            assert torch.equal(unit.weight, conv.weight[: len(unit.weight)])  # a unit may have fewer filters
        if conv.bias is not None and isinstance(getattr(unit, "bias", None), torch.Tensor):
            assert torch.equal(unit.bias, conv.bias)
        assert torch.isfinite(unit(image(unit))).all()


@each_convolution
@pytest.mark.parametrize("start", ["from_conv", "fresh_like"])
def test_frozen_mode_and_dtype_carry_over(case: Case, start: str) -> None:
    conv = nn.Conv2d(**case.homes()[0], dtype=torch.float64).eval().requires_grad_(False)
    unit = getattr(case.cls, start)(conv, **case.options)
    assert not any(p.requires_grad for p in unit.parameters())
    assert not any(module.training for module in unit.modules())
    assert {p.dtype for p in unit.parameters()} == {torch.float64}

    trained = getattr(case.cls, start)(nn.Conv2d(**case.homes()[0]).train(), **case.options)
    assert all(p.requires_grad and p.is_leaf for p in trained.parameters())
    assert all(module.training for module in trained.modules())


@each_convolution
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_starts_from_a_low_precision_convolution(case: Case, dtype: torch.dtype) -> None:
    conv = nn.Conv2d(**case.homes()[0], dtype=dtype).eval()
    unit = case.from_conv(conv)
    assert {p.dtype for p in unit.parameters()} == {dtype}
    x = image(conv)
    if case.warm_start(conv) == "exact":
        assert difference(unit(x), conv(x)) < 0.1
    assert case.cls.fresh_like(conv, **case.options).weight.dtype == dtype


@each_convolution
@pytest.mark.parametrize("start", ["from_conv", "fresh_like"])
def test_a_meta_convolution_gives_a_meta_unit(case: Case, start: str) -> None:
    conv = nn.Conv2d(**case.homes()[0], device="meta")
    unit = getattr(case.cls, start)(conv, **case.options)
    assert all(p.is_meta for p in unit.parameters())
