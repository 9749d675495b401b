"""Every mistake an author can make in a row or a class is refused with one line that says what to do."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from torch import Tensor, nn

from convswap import plan_swap, swap
from convswap.errors import UsageError
from convswap.units import BlockUnit, FeatureUnit, WeightUnit, get_unit, list_units, register_unit
from convswap.units.contract import registry
from convswap.units.contract.checks import RESERVED
from convswap.units.contract.options import UnknownOptionError, options_of

ROW: dict[str, Any] = {"paper": "none", "year": 2026, "summary": "a test", "warm_start": "none", "fusion": "none"}


class Plain(FeatureUnit):
    """A feature unit without a fault."""

    def setup(self, *, gain: float = 1.0) -> None:
        self.conv = nn.Conv2d(**self.geometry.arguments(), **self.place)

    @property
    def weight(self) -> Tensor:
        return self.conv.weight

    @property
    def bias(self) -> Tensor | None:
        return self.conv.bias

    def forward(self, input: Tensor) -> Tensor:
        return self.conv(input)


class Weighty(WeightUnit):
    """A weight unit without a fault."""

    def effective_weight(self) -> Tensor:
        return self.weight


class Blocky(BlockUnit):
    """A block unit without a fault."""

    def setup(self) -> None:
        self.conv = nn.Conv2d(self.in_channels, self.out_channels, 3, self.stride, 1, **self.place)

    def forward(self, input: Tensor) -> Tensor:
        return self.conv(input)


class OldStyle(Plain):
    """Writes the constructor itself."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size)


class WhereOption(Plain):
    """Has an option that `swap` would take for itself."""

    def setup(self, *, where: str = "a") -> None:
        super().setup()


class NoDefault(Plain):
    """Has an option that must be given."""

    def setup(self, *, temperature: float) -> None:  # type: ignore[override]
        super().setup()


class NoWeightFunction(WeightUnit):
    """Lacks effective_weight()."""


class NoForward(FeatureUnit):
    """Lacks forward()."""


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    list_units()
    monkeypatch.setattr(registry, "_UNITS", dict(registry._UNITS))


def refused(match: str, act: Any) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        act()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"name": "My Unit!"}, r"unit name 'My Unit!' is not allowed; .* e.g. 'my_unit'"),
        ({"name": "DynConv"}, "e.g. 'dyn_conv'"),
        ({"name": ""}, "e.g. 'my_unit'"),
        ({"name": "7up"}, "snake case"),
        ({"name": None}, "snake case"),
        ({"warm_start": "exactly"}, "warm_start='exactly' is not allowed; did you mean 'exact'"),
        ({"warm_start": None}, "warm_start=None is not allowed; did you mean 'none'"),
        ({"warm_start": 1}, "warm_start=1 is not allowed; choose one of exact, approximate, none"),
        ({"fusion": "convolution"}, "fusion='convolution' is not allowed; "),
        ({"fusion": "cheap"}, "did you mean 'cheaper'"),
        ({"placement": "infered"}, "did you mean 'inferred'"),
        ({"train_eval": "batchnorm"}, "did you mean 'batch_norm'"),
        ({"gradient": "straight-through"}, "did you mean 'straight_through'"),
        ({"replaces": "blocks"}, "did you mean 'block'"),
        ({"year": 24}, "year=24 is not allowed"),
        ({"year": "2024"}, "year='2024' is not allowed"),
        ({"year": True}, "year=True is not allowed"),
        ({"summary": "two\nlines"}, "summary=.* give one line"),
        ({"summary": " "}, "summary=.* give one line"),
        ({"paper": ""}, "paper=.* give one line"),
        ({"default_where": "spatiall"}, "default_where='spatiall': .*did you mean 'spatial'"),
        ({"default_where": "spatial & !frist"}, "did you mean 'first'"),
        ({"default_where": "spatial &"}, "has an empty condition"),
        ({"default_where": "stage_start"}, "unknown condition in default_where 'stage_start'"),
        ({"default_where": None}, "default_where=None is not allowed"),
        ({"variants": {"gain": 2.0}}, "variants=.* give a tuple of option sets"),
        ({"variants": ("gain",)}, "variants=.* give a tuple of option sets"),
        ({"variants": ({"gian": 2.0},)}, "variants=.*has no option 'gian'; did you mean 'gain'"),
        ({"no_weight_decay": "gain"}, r"no_weight_decay='gain' .* e.g. \('gain',\)"),
        ({"no_weight_decay": ("a.b",)}, "no_weight_decay=.* give a tuple of parameter names"),
        ({"no_weight_decay": 3}, "no_weight_decay=3"),
        ({"constant_weight": "yes"}, "constant_weight='yes' is not allowed"),
        ({"replaces": "block", "default_where": "all"}, "replaces='block' needs a BlockUnit"),
    ],
)
def test_a_row_with_a_fault_is_refused(change: dict[str, Any], match: str) -> None:
    register_unit(**{"name": "zz_fine", **ROW})(Plain)
    refused(match, lambda: register_unit(**{"name": "zz_odd", **ROW, **change})(Plain))
    assert "zz_odd" not in list_units()


@pytest.mark.parametrize(
    ("cls", "change", "match"),
    [
        (nn.Conv2d, {}, "Conv2d is not a unit; derive it from WeightUnit, FeatureUnit or BlockUnit"),
        (lambda: None, {}, "is not a unit"),
        (OldStyle, {}, r"OldStyle writes __init__; write its options as setup\(self, \*, option=default\)"),
        (WhereOption, {}, "an option cannot be called 'where'"),
        (NoDefault, {}, "the option 'temperature' has no default"),
        (NoWeightFunction, {}, r"lacks effective_weight\(\)"),
        (NoForward, {}, r"lacks forward\(\)"),
        (Blocky, {}, "is a BlockUnit; say what it replaces"),
        (Blocky, {"replaces": "block", "warm_start": "exact", "default_where": "all"}, "always starts fresh"),
        (Weighty, {"replaces": "stem", "default_where": "all"}, "stands for a convolution"),
    ],
)
def test_a_class_that_cannot_be_a_unit_is_refused(cls: Any, change: dict[str, Any], match: str) -> None:
    refused(match, lambda: register_unit(**{"name": "zz_odd", **ROW, **change})(cls))
    assert "zz_odd" not in list_units()


@pytest.mark.parametrize("name", ["kernel_size", "bias", "device"])
def test_an_option_called_as_an_argument_is_refused_where_the_class_is_written(name: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def setup(self, *, {name}=1): ...", scope)
    refused(
        f"'{name}' is an argument of the constructor", lambda: type("Odd", (FeatureUnit,), {"setup": scope["setup"]})
    )


def test_options_that_are_not_named_are_refused_where_the_class_is_written() -> None:
    def setup(self: Any, *options: int) -> None: ...

    refused(r"takes \*options: .*write its options as", lambda: type("Odd", (FeatureUnit,), {"setup": setup}))


@pytest.mark.parametrize(("attribute", "missing"), [("weight", "bias"), ("bias", "weight")])
def test_a_feature_unit_without_weight_or_bias_is_refused_when_built(attribute: str, missing: str) -> None:
    class Half(FeatureUnit):
        def setup(self) -> None:
            setattr(self, attribute, nn.Parameter(self.conv.weight[0]) if attribute == "weight" else None)

        conv = nn.Conv2d(1, 1, 1)

        def forward(self, input: Tensor) -> Tensor:
            return input

    register_unit("zz_half", **ROW)(Half)
    refused(f"Half has no '{missing}'; make a parameter", lambda: Half(3, 4, 3))
    refused(f"Half has no '{missing}'", lambda: swap(nn.Sequential(nn.Conv2d(3, 4, 3)), "zz_half", where="all"))


def test_the_old_order_of_arguments_is_refused() -> None:
    """Before, the base took no bias, and the padding mode stood in its place."""
    refused("bias='zeros' is not allowed", lambda: Plain(3, 4, 3, 1, 0, 1, 1, "zeros"))  # type: ignore[arg-type]


def test_the_kind_follows_from_the_class() -> None:
    class Quantising(Weighty):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input.sign())

    found = {}
    for cls, more in ((Plain, {}), (Weighty, {}), (Quantising, {}), (Blocky, {"replaces": "block"})):
        register_unit("zz", **ROW, **more, default_where="all")(cls)  # type: ignore[arg-type]
        found[cls.__name__] = get_unit("zz").kind
        registry._UNITS.pop("zz")
    assert found == {"Plain": "feature", "Weighty": "weight", "Quantising": "feature", "Blocky": "block"}


@pytest.mark.parametrize("function", [swap, plan_swap])
def test_no_option_can_have_a_name_that_swap_takes(function: Any) -> None:
    own = {p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD}
    assert own <= RESERVED


def test_a_subclass_has_its_parents_options_where_it_passes_them_on() -> None:
    class Warm(Plain):
        def setup(self, *, heat: int = 2, gain: float = 3.0, **options: Any) -> None:
            super().setup(gain=gain, **options)

    assert options_of(Warm) == {"gain": 3.0, "heat": 2}
    assert list(inspect.signature(Warm).parameters)[-4:] == ["gain", "heat", "device", "dtype"]
    assert Warm(1, 1, 1, heat=5).options == {"gain": 3, "heat": 5}
    assert "heat=5" in repr(Warm(1, 1, 1, heat=5))
    assert "gain" not in repr(Warm(1, 1, 1))


@pytest.mark.parametrize("name", list_units())
def test_an_option_that_is_not_there_names_the_nearest(name: str) -> None:
    cls: Any = get_unit(name).cls
    options = options_of(cls)
    if not options:
        pytest.skip("no options")
    option = max(options, key=len)
    with pytest.raises(UnknownOptionError, match=rf"{cls.__name__} has no option '{option}x'; did you mean '{option}'"):
        cls(4, 4, **({} if get_unit(name).kind == "block" else {"kernel_size": 3}), **{f"{option}x": 1})
