"""A unit has the constructor, attributes and shapes of `nn.Conv2d` wherever `supports` lets it stand."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from contract_cases import Case, difference, each_convolution, each_unit, image
from contract_geometry import Drawn, drawn, geometry_settings
from hypothesis import given
from torch import nn

from convswap.units import Geometry, Unit, WeightUnit


@each_convolution
@given(place=drawn())
@geometry_settings
def test_shape_and_dtype_are_those_of_conv2d(case: Case, place: Drawn) -> None:
    conv, x = place.conv, place.x_NCHW
    reason = case.refuses(conv)
    if reason is not None:
        assert_refused(case, conv, reason)
        return
    expected = conv(x)
    unit = case.build(Geometry.of(conv).arguments(), dtype=x.dtype).eval()
    output = unit(x)
    assert output.shape == expected.shape
    assert output.dtype == expected.dtype
    if case.spec.kind == "weight" and len(x):
        single = unit(x[0])
        assert difference(single, output[0]) < 1e-5


def assert_refused(case: Case, conv: nn.Conv2d, reason: str) -> None:
    """A place `supports` refuses is refused with that reason by both ways to stand there."""
    assert isinstance(reason, str)
    assert reason.strip()
    for build in (case.cls.from_conv, case.cls.fresh_like):
        with pytest.raises(ValueError) as caught:
            build(conv, **case.options)
        assert reason in str(caught.value)
    with pytest.raises(ValueError):
        case.build(Geometry.of(conv).arguments())


@each_convolution
def test_supports_its_own_default_placement(case: Case) -> None:
    for geometry in case.homes():
        conv = nn.Conv2d(**geometry)
        assert case.refuses(conv) is None, f"{case} refuses {conv}, where default_where={case.spec.default_where!r}"
        assert isinstance(case.from_conv(conv), case.cls)


@each_convolution
def test_has_the_attributes_of_conv2d(case: Case) -> None:
    for geometry in case.geometries():
        conv, unit = nn.Conv2d(**geometry), case.build(geometry)
        assert isinstance(unit, Unit)
        assert isinstance(unit.weight, torch.Tensor)
        if case.spec.kind == "weight":
            assert isinstance(unit, WeightUnit)
            assert Geometry.of(unit) == Geometry.of(conv)
            assert unit.effective_weight().shape == conv.weight.shape
        for name in Geometry.__dataclass_fields__:
            if name != "bias":
                assert getattr(unit, name) == getattr(conv, name), name


def _unit_options(cls: type) -> dict[str, inspect.Parameter]:
    """The constructor's own options: all that `nn.Conv2d` does not have."""
    known = inspect.signature(nn.Conv2d).parameters
    parameters = inspect.signature(cls).parameters
    return {name: p for name, p in parameters.items() if name not in known and p.kind is not p.VAR_KEYWORD}


@each_convolution
def test_constructor_is_that_of_conv2d_and_options_are_keyword_only(case: Case) -> None:
    parameters = inspect.signature(case.cls).parameters
    positional = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    conv2d = inspect.signature(nn.Conv2d).parameters
    shared = [name for name in conv2d if name not in ("device", "dtype")]
    assert positional[: len(shared)] == shared
    assert set(positional) <= set(conv2d), "unit options must be keyword-only"
    assert {"device", "dtype"} <= set(parameters)
    for name in shared:
        assert parameters[name].default == conv2d[name].default, name
    for name, parameter in _unit_options(case.cls).items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, name
        assert parameter.default is not inspect.Parameter.empty, f"{name} needs a default"
    assert set(case.options) <= set(_unit_options(case.cls))


@each_convolution
def test_unknown_option_is_a_type_error_naming_it(case: Case) -> None:
    conv = nn.Conv2d(**case.homes()[0])
    builders: list[Any] = [
        lambda **options: case.build(case.homes()[0], **options),
        lambda **options: case.cls.from_conv(conv, **case.options, **options),
        lambda **options: case.cls.fresh_like(conv, **case.options, **options),
    ]
    for build in builders:
        with pytest.raises(TypeError, match="no_such_option"):
            build(no_such_option=1)


@each_convolution
def test_a_bad_option_value_is_a_value_error_naming_option_and_value(case: Case) -> None:
    conv = nn.Conv2d(**case.homes()[0])
    for name in _unit_options(case.cls):
        options = {**case.options, name: "no-such-value"}
        with pytest.raises(ValueError, match=name) as caught:
            case.cls(**case.homes()[0], **options)
        assert "no-such-value" in str(caught.value)
        with pytest.raises(ValueError, match=name):
            case.cls.from_conv(conv, **options)


@each_convolution
def test_repr_names_the_class_and_the_geometry(case: Case) -> None:
    for geometry in case.geometries():
        text = repr(case.build(geometry))
        assert case.cls.__name__ in text
        assert f"kernel_size={Geometry.of(nn.Conv2d(**geometry)).kernel_size}" in text


@each_unit
def test_channels_last_in_channels_last_out_without_a_copy_back(case: Case) -> None:
    unit = case.home().eval()
    x = image(unit, batch=5)
    expected = unit(x)
    unit.to(memory_format=torch.channels_last)
    with _Layouts() as layouts:
        output = unit(x.to(memory_format=torch.channels_last))
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert difference(output, expected) < 1e-5
    assert not layouts.lost, f"copied from channels_last to another layout by {layouts.lost}"


class _Layouts(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes every copy that takes a feature map out of channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name in ("aten::clone", "aten::contiguous", "aten::_to_copy", "aten::copy_"):
            source = args[1] if func._schema.name == "aten::copy_" else args[0]
            if _is_channels_last(source) and not result.is_contiguous(memory_format=torch.channels_last):
                self.lost.append(func._schema.name)
        return result


def _is_channels_last(x: torch.Tensor) -> bool:
    feature_map = x.dim() == 4 and len(x) == 5 and min(x.shape[1:]) > 1
    return feature_map and x.is_contiguous(memory_format=torch.channels_last)
