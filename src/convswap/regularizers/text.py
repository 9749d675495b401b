"""Methods as text: `cutout`, `dropblock:0.1`, `mixup:alpha=0.2`. Equal methods have equal canonical text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from ..errors import UsageError, unknown_name
from .contract import PLACES, Regularizer
from .registry import get_regularizer, options_of

_TRUTH = {"true": True, "false": False}


def parse_regularizer(text: str) -> Regularizer:
    """The method that a text names: `name`, `name:VALUE` (of its first option) or `name:OPTION=VALUE:OPTION=VALUE`.

    Several numbers of one option stand with slashes: `0.5/0.75`.

    Raises:
        UsageError: an unknown method or option (with the nearest), or a value that is not allowed.

    >>> parse_regularizer("cutout:8")
    Cutout(length=8)
    """
    if not isinstance(text, str):
        raise UsageError(f"regularize={text!r} is not allowed; give text such as 'cutout' or 'mixup:alpha=0.2'")
    name, *given = (part.strip() for part in text.split(":"))
    cls = get_regularizer(name)
    defaults = options_of(cls)
    values: dict[str, Any] = {}
    for index, part in enumerate(given):
        option, equals, value = (word.strip() for word in part.partition("="))
        if not equals:
            if index or not defaults:
                raise UsageError(f"regularizer {text!r}: {part!r} has no name; write OPTION=VALUE")
            option, value = next(iter(defaults)), part
        if option not in defaults:
            raise unknown_name(f"option of {name}", option, defaults)
        if option in values:
            raise UsageError(f"regularizer {text!r} gives {option!r} twice; give it once")
        values[option] = _value(name, option, value, defaults[option])
    try:
        return cls(**values)
    except UsageError as error:
        raise UsageError(f"regularizer {name}: {error}") from error


def _value(name: str, option: str, text: str, default: Any) -> Any:
    """A value of the kind that the option's default has."""
    if isinstance(default, tuple):
        return tuple(_value(name, option, part, default[0] if default else 0.0) for part in text.split("/") if part)
    if isinstance(default, bool):
        if text.lower() not in _TRUTH:
            raise UsageError(f"regularizer {name}: {option}={text!r} is not allowed; give true or false")
        return _TRUTH[text.lower()]
    if isinstance(default, str):
        return text
    try:
        return int(text) if isinstance(default, int) else float(text)
    except ValueError as error:
        wanted = "a whole number" if isinstance(default, int) else "a number"
        raise UsageError(f"regularizer {name}: {option}={text!r} is not allowed; give {wanted}") from error


def text_of(method: Regularizer) -> str:
    """The canonical text: the options in their order, those at their defaults left out.

    >>> text_of(parse_regularizer("cutout:16")), text_of(parse_regularizer("cutout:8"))
    ('cutout', 'cutout:length=8')
    """
    defaults = options_of(type(method))
    given = {f.name: getattr(method, f.name) for f in fields(method)}  # type: ignore[arg-type]
    parts = [f"{name}={_written(value)}" for name, value in given.items() if value != defaults[name]]
    return ":".join([method.name, *parts])


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return "/".join(map(_written, value))
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else str(value)


def parse_regularizers(given: Iterable[str | Regularizer]) -> tuple[Regularizer, ...]:
    """The methods in the order in which they act, which does not depend on the order in which they are named.

    Raises:
        UsageError: as for `parse_regularizer`, or a method is named twice, or `given` is one text.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(f"regularize={given!r} is not allowed; give a tuple such as ('cutout', 'mixup:alpha=0.2')")
    methods = [one if isinstance(one, Regularizer) else parse_regularizer(one) for one in given]
    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"regularizer {name!r} is named twice; name it once")
    return tuple(sorted(methods, key=lambda method: (list(PLACES).index(method.place), method.name)))


def split_list(text: str) -> list[str]:
    """The methods of a command line's `cutout,mixup:alpha=0.2`. `none` stands for no method.

    >>> split_list("cutout, mixup:0.2"), split_list("none")
    (['cutout', 'mixup:0.2'], [])
    """
    parts = [part.strip() for part in text.split(",")]
    if parts == ["none"]:
        return []
    if "none" in parts or "" in parts:
        raise UsageError(f"--regularize {text!r} is not allowed; separate methods by single commas, or give none alone")
    return parts
