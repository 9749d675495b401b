"""Reading `--vary` and the values of its axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import UsageError, check_choice

if TYPE_CHECKING:
    from ..lab import Axis
    from ..train import Recipe

UNIT = "unit"
OPTIONS = {"recipe": "--recipes", "regularize": "--regularize", "learning_rate": "--learning-rates"}
"""The option that holds the values of each axis but the units, whose values are in --units."""

_EXAMPLES = {"recipe": "auto,all_cnn", "regularize": "none,cutout,mixup", "learning_rate": "0.1,0.2,0.4"}


def chosen_axis(vary: str, values: dict[str, str | None], recipe: Callable[..., Recipe]) -> Axis | None:
    """The axis of `--vary`, None for the units.

    Args:
        vary: the axis.
        values: by axis, the text of its option, None where it was not given.
        recipe: makes the recipe of the command line, with `name`, `regularize` or `learning_rate` replaced.

    Raises:
        UsageError: an unknown axis, an option of another axis, fewer than two values or a value that is not allowed.
    """
    from ..lab import Axis

    check_choice("--vary", vary, (UNIT, *OPTIONS))
    for axis, text in values.items():
        if text is not None and axis != vary:
            raise UsageError(f"{OPTIONS[axis]} {text!r} goes with --vary {axis}; add it, or leave {OPTIONS[axis]} out")
    if vary == UNIT:
        return None
    option, text = OPTIONS[vary], values.get(vary)
    names = _names(option, text, vary)
    if vary == "recipe":
        return Axis(vary, {name: recipe(name=name).as_dict() for name in names})
    if vary == "regularize":
        return Axis(vary, {name: recipe(regularize=name.replace("+", ",")).as_dict() for name in names})
    return Axis(vary, {name: recipe(learning_rate=_number(option, name)).as_dict() for name in names})


def _names(option: str, text: str | None, vary: str) -> Sequence[str]:
    names = list(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))
    if len(names) < 2:
        example = _EXAMPLES[vary]
        given = "was not given" if text is None else f"{text!r} has fewer than two values"
        raise UsageError(f"{option} {given}; --vary {vary} needs the baseline and others, e.g. {option} {example}")
    return names


def _number(option: str, name: str) -> float:
    try:
        return float(name)
    except ValueError:
        raise UsageError(f"{option}: {name!r} is not a number; give e.g. {option} 0.1,0.2,0.4") from None
