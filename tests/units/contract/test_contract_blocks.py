"""What a block unit must be besides the rest of the contract: a constructor of channels and stride, exact shapes,
honest refusals, and a place in real networks."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from contract_cases import BLOCKS, Case, difference, each_block, image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import convswap
from convswap.units import BlockUnit, Place

block_settings = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def places(draw: st.DrawFn) -> Place:
    channels = st.sampled_from([1, 3, 8, 12, 16, 24, 32])
    return Place(draw(channels), draw(channels), draw(st.integers(1, 3)), draw(st.integers(1, 5)))


@each_block
@given(place=places(), batch=st.sampled_from([0, 1, 2]), height=st.integers(1, 9), width=st.integers(1, 9))
@block_settings
def test_shape_is_that_of_the_place(case: Case, place: Place, batch: int, height: int, width: int) -> None:
    if case.spec.replaces == "stem":  # its channels and strides are few, its size is the host's own
        place = Place(3, 64, 4, kind="stem")
    reason = case.cls.supports(place, **case.options)
    if reason is not None:
        assert reason.strip()
        with pytest.raises(ValueError) as caught:
            case.cls.at(place, **case.options)
        assert reason in str(caught.value)
        return
    unit = case.cls.at(place, **case.options).eval()
    x = torch.randn(batch, place.in_channels, height, width)
    output = unit(x)
    rows, columns = -(-height // place.stride), -(-width // place.stride)
    assert output.shape == (batch, place.out_channels, rows, columns)
    assert torch.isfinite(output).all()


@each_block
def test_supports_its_own_default_placement(case: Case) -> None:
    for geometry in case.homes():
        assert case.cls.supports(Place(**geometry), **case.options) is None
        assert isinstance(case.cls.at(Place(**geometry), **case.options), case.cls)


@each_block
def test_takes_device_dtype_and_mode_of_the_place(case: Case) -> None:
    geometry = case.homes()[0]
    unit = case.cls.at(Place(**geometry, dtype=torch.float64, training=False), **case.options)
    assert {p.dtype for p in unit.parameters()} == {torch.float64}
    assert not any(module.training for module in unit.modules())
    meta = case.cls.at(Place(**geometry, device="meta"), **case.options)
    assert all(t.is_meta for t in (*meta.parameters(), *meta.buffers()))


@each_block
def test_constructor_is_channels_stride_and_keywords(case: Case) -> None:
    assert issubclass(case.cls, BlockUnit)
    parameters = inspect.signature(case.cls).parameters
    assert list(parameters)[:3] == ["in_channels", "out_channels", "stride"]
    assert parameters["stride"].default == 1
    rest = [p for name, p in parameters.items() if name not in ("in_channels", "out_channels", "stride")]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in rest)
    assert {"device", "dtype"} <= set(parameters)
    unit = case.home()
    assert {name: getattr(unit, name) for name in case.homes()[0] if name != "depth"} == {
        name: value for name, value in case.homes()[0].items() if name != "depth"
    }


def _options(case: Case) -> list[str]:
    known = ("in_channels", "out_channels", "stride", "device", "dtype")
    return [name for name in inspect.signature(case.cls).parameters if name not in known]


@each_block
@pytest.mark.parametrize("name", ["in_channels", "out_channels", "stride"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"], ids=repr)
def test_a_bad_place_is_a_value_error_naming_it(case: Case, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        case.build(case.homes()[0] | {name: value})
    assert repr(value) in str(caught.value)


@each_block
def test_a_bad_option_value_is_a_value_error_naming_option_and_value(case: Case) -> None:
    for name in _options(case):
        options = {**case.options, name: "no-such-value"}
        with pytest.raises(ValueError, match=name) as caught:
            case.cls(**(case.homes()[0] | options))
        assert "no-such-value" in str(caught.value)


@each_block
def test_unknown_option_is_a_type_error_naming_it(case: Case) -> None:
    with pytest.raises(TypeError, match="no_such_option"):
        case.build(case.homes()[0], no_such_option=1)


@each_block
def test_repr_names_the_class_and_the_place(case: Case) -> None:
    geometry = case.homes()[0]
    text = repr(case.build(geometry))
    assert case.cls.__name__ in text
    assert f"{geometry['in_channels']}, {geometry['out_channels']}" in text


@each_block
def test_row_names_real_parameters(case: Case) -> None:
    names = {name.rsplit(".", 1)[-1] for name, _ in case.home().named_parameters()}
    assert case.spec.no_weight_decay <= names or case.options


@pytest.mark.parametrize("case", [case for case in BLOCKS if not case.options], ids=str)
def test_swaps_into_a_residual_network_fuses_and_trains(case: Case) -> None:
    stem = case.spec.replaces == "stem"
    model = convswap.create_model("resnet18" if stem else "cifar_resnet20", num_classes=5)
    x = torch.randn(4, 3, 64 if stem else 16, 48 if stem else 16)
    plan = convswap.plan_swap(model, case.spec.name, example_input=x, **case.options)
    assert plan.replacements
    assert all(row.start == "none" and row.place is not None for row in plan.replacements)
    swapped = plan.apply()
    for row in plan.replacements:
        assert type(swapped.get_submodule(row.path)) is case.cls
        assert sum(p.numel() for p in swapped.get_submodule(row.path).parameters()) == row.parameters_after
    optimizer = torch.optim.SGD(swapped.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(swapped(x), torch.arange(4)).backward()
        optimizer.step()
    swapped.eval()
    with torch.no_grad():
        assert difference(convswap.fuse(swapped, x)(x), swapped(x)) < 1e-4


@each_block
def test_one_image_in_evaluation_is_one_row_of_the_batch(case: Case) -> None:
    unit = case.home(dtype=torch.float64).eval()
    x = image(unit, batch=3)
    assert difference(unit(x[1:2]), unit(x)[1:2]) < 1e-12
