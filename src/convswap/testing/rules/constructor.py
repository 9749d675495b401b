"""The construction of a unit: the signature, its options, and the refusal of a wrong option."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from ...units import BlockUnit, Geometry, Place, Unit, WeightUnit
from ..case import Case
from ..rule import CONVOLUTIONS, demand, rule

_GEOMETRY_OF_A_BLOCK = ("in_channels", "out_channels", "stride")


def own_options(case: Case) -> dict[str, inspect.Parameter]:
    """The constructor's own options: the arguments that `nn.Conv2d`, or the base of blocks, does not have."""
    known = {*_GEOMETRY_OF_A_BLOCK, "device", "dtype"} if case.block else set(inspect.signature(nn.Conv2d).parameters)
    parameters = inspect.signature(case.cls).parameters
    return {name: p for name, p in parameters.items() if name not in known and p.kind is not p.VAR_KEYWORD}


def raised(what: str, kind: type[Exception], build: Callable[[], Any], *words: str) -> None:
    """Demand that `build()` raises an error of this kind whose text has all the words."""
    try:
        build()
    except kind as error:
        missing = [word for word in words if word not in str(error)]
        demand(not missing, f"{what} raises a {type(error).__name__} that does not name {missing}: {error}")
        return
    except Exception as error:
        demand(False, f"{what} raises {type(error).__name__} in place of {kind.__name__}: {error}")
    demand(False, f"{what} is accepted; it must raise {kind.__name__}")


@rule(CONVOLUTIONS)
def constructor_is_that_of_conv2d(case: Case) -> None:
    """The constructor must take `nn.Conv2d`'s arguments in its order and every option by keyword with a default."""
    parameters = inspect.signature(case.cls).parameters
    positional = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    conv2d = inspect.signature(nn.Conv2d).parameters
    shared = [name for name in conv2d if name not in ("device", "dtype")]
    demand(positional[: len(shared)] == shared, f"the arguments are {positional}; they must begin with {shared}")
    demand(set(positional) <= set(conv2d), f"options given by position: {sorted(set(positional) - set(conv2d))}")
    demand({"device", "dtype"} <= set(parameters), "device and dtype are missing")
    for name in shared:
        default = parameters[name].default
        demand(default == conv2d[name].default, f"{name} has the default {default!r}, not nn.Conv2d's")
    _by_keyword_with_defaults(case)


@rule(("block",))
def constructor_is_channels_stride_and_keywords(case: Case) -> None:
    """A block's constructor must take `in_channels, out_channels, stride=1`, then every option by keyword."""
    demand(issubclass(case.cls, BlockUnit), f"{case.cls.__name__} is not a BlockUnit")
    parameters = inspect.signature(case.cls).parameters
    first = list(parameters)[:3]
    demand(first == list(_GEOMETRY_OF_A_BLOCK), f"the arguments begin with {first}")
    demand(parameters["stride"].default == 1, "stride must have the default 1")
    demand({"device", "dtype"} <= set(parameters), "device and dtype are missing")
    _by_keyword_with_defaults(case)
    geometry = {name: value for name, value in case.homes()[0].items() if name != "depth"}
    unit = case.home()
    kept = {name: getattr(unit, name, None) for name in geometry}
    demand(kept == geometry, f"the unit's attributes say {kept}, but {geometry} was given")


def _by_keyword_with_defaults(case: Case) -> None:
    options = own_options(case)
    for name, parameter in options.items():
        demand(parameter.kind is parameter.KEYWORD_ONLY, f"the option {name} is not keyword-only")
        demand(parameter.default is not parameter.empty, f"the option {name} has no default")
    unknown = sorted(set(case.options) - set(options))
    demand(not unknown, f"the row's variants set {unknown}, which the constructor does not show")


@rule()
def unknown_option_is_refused(case: Case) -> None:
    """An unknown option must raise a TypeError that names it, from the constructor and from every way to build."""
    home, wrong = case.homes()[0], {"no_such_option": 1}
    raised("an unknown option of the constructor", TypeError, lambda: case.build(home, **wrong), "no_such_option")
    if case.block:
        return
    conv = nn.Conv2d(**home)
    for start in ("from_conv", "fresh_like"):
        build = getattr(case.cls, start)
        raised(f"{start}(no_such_option=1)", TypeError, partial(build, conv, **case.options, **wrong), *wrong)


@rule()
def bad_option_value_is_refused(case: Case) -> None:
    """A wrong value of an option must raise a ValueError that names the option and the value."""
    home = case.homes()[0]
    for name in own_options(case):
        options = {**case.options, name: "no-such-value"}
        what = f"{name}='no-such-value'"
        raised(what, ValueError, partial(case.cls, **(home | options)), name, "no-such-value")
        if not case.block:
            conv = nn.Conv2d(**home)
            raised(f"from_conv({what})", ValueError, partial(case.cls.from_conv, conv, **options), name)


@rule(("block",))
def bad_place_is_refused(case: Case) -> None:
    """A channel count or stride that is not a whole number of at least 1 must raise a ValueError that names it."""
    for name in _GEOMETRY_OF_A_BLOCK:
        for value in (0, -1, 1.5, True, "2"):
            geometry = case.homes()[0] | {name: value}
            raised(f"{name}={value!r}", ValueError, partial(case.build, geometry), name, repr(value))


@rule(CONVOLUTIONS)
def has_the_attributes_of_conv2d(case: Case) -> None:
    """The unit must have `nn.Conv2d`'s attributes with its values, and a tensor `weight`."""
    for geometry in case.geometries():
        conv, unit = nn.Conv2d(**geometry), case.build(geometry)
        demand(isinstance(unit, Unit), "an attribute or method of convswap.units.Unit is missing")
        demand(isinstance(unit.weight, torch.Tensor), f"weight is a {type(unit.weight).__name__}, not a tensor")
        if case.spec.kind == "weight":
            demand(isinstance(unit, WeightUnit), f"kind='weight', but {case.cls.__name__} is not a WeightUnit")
            demand(Geometry.of(unit) == Geometry.of(conv), f"the geometry is {Geometry.of(unit)}")
            shape = unit.effective_weight().shape
            demand(shape == conv.weight.shape, f"effective_weight() has shape {tuple(shape)}")
        for name in Geometry.__dataclass_fields__:
            if name != "bias":
                ours, theirs = getattr(unit, name), getattr(conv, name)
                demand(ours == theirs, f"{name} is {ours!r}; an nn.Conv2d of that geometry has {theirs!r}")


@rule()
def repr_names_class_and_place(case: Case) -> None:
    """`repr` must name the class and the geometry."""
    for geometry in case.geometries():
        text = repr(case.build(geometry))
        if case.block:
            told = f"{geometry['in_channels']}, {geometry['out_channels']}"
        else:
            told = f"kernel_size={Geometry.of(nn.Conv2d(**geometry)).kernel_size}"
        for word in (case.cls.__name__, told):
            demand(word in text, f"{word!r} is not in {text!r}")


@rule()
def stands_in_its_default_places(case: Case) -> None:
    """`supports` must accept the places that the row's `default_where` selects."""
    for geometry in case.homes():
        if case.block:
            place = Place(**geometry)
            reason, build = case.cls.supports(place, **case.options), partial(case.cls.at, place, **case.options)
        else:
            conv = nn.Conv2d(**geometry)
            reason, build = case.refuses(conv), partial(case.from_conv, conv)
        demand(reason is None, f"{geometry} is refused ({reason}), where default_where={case.spec.default_where!r}")
        demand(isinstance(build(), case.cls), f"the unit built there is not a {case.cls.__name__}")


@rule()
def row_names_real_parameters(case: Case) -> None:
    """The row's `no_weight_decay` must name parameters the unit has, else a recipe excludes nothing by a typo."""
    siblings = [Case(case.spec, {}), *(Case(case.spec, options) for options in case.spec.variants)]
    units = [sibling.home() for sibling in siblings]
    if not case.block:
        conv = nn.Conv2d(**case.homes()[0])
        units += [sibling.from_conv(conv) for sibling in siblings]
    names = {name.rsplit(".", 1)[-1] for unit in units for name, _ in unit.named_parameters()}
    missing = sorted(case.spec.no_weight_decay - names)
    demand(not missing, f"no parameter is called {missing}; there are {sorted(names)}")
