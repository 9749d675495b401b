"""Errors that a user can act on.

Every error raised on purpose for bad input derives from `ConvswapError`. The command line prints such an error as one
line without a traceback. Programming errors are never wrapped and keep their traceback.
"""

from __future__ import annotations

import math
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeGuard


class ConvswapError(Exception):
    """Base of all errors that name the thing, the value and the nearest fix."""


class UsageError(ConvswapError, ValueError):
    """An argument has a value that is not allowed (an unknown name, a bad option)."""


class SurgeryError(ConvswapError, RuntimeError):
    """A model cannot be changed as asked (nothing matched, wrapped in DDP, held by an optimizer, ...)."""


class FusionError(ConvswapError, RuntimeError):
    """The fused model does not compute the same function, or cannot be verified."""


class DataError(ConvswapError, RuntimeError):
    """A data set is missing, incomplete or unreadable."""


class TrainingError(ConvswapError, RuntimeError):
    """Training cannot continue (NaN loss, a checkpoint of another run, ...)."""


class StoreError(ConvswapError, RuntimeError):
    """A file or a lab on disk is damaged or was written by another version."""


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of an error's message, cut after `most` characters, or its type's name if the message is empty.

    >>> first_line(ValueError("no weights\\nat all")), first_line(EOFError())
    ('no weights', 'EOFError')
    """
    lines = str(error).strip().splitlines()
    return lines[0][:most] if lines else type(error).__name__


def described(error: BaseException) -> str:
    """`first_line` behind the name of the error's type. Errors of convswap need no such name and get none.

    >>> described(UsageError("seed=-1 is not allowed")), described(ValueError("bad"))
    ('seed=-1 is not allowed', 'ValueError: bad')
    """
    line = first_line(error)
    return line if isinstance(error, ConvswapError) or not str(error).strip() else f"{type(error).__name__}: {line}"


def own_frames(error: BaseException, most: int = 3) -> str:
    """Where an error was raised, if in the user's own files, for the end of a message: the innermost `most` frames.

    `(mine.py, line 7, in build: 1 / 0)`. Frames of convswap, of Python and of installed packages are left out. Without
    others the text is empty.
    """
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_installed(frame.filename)]
    said = [f"{Path(f.filename).name}, line {f.lineno}, in {f.name}: {f.line}" for f in own[-most:]]
    return f" ({' > '.join(said)})" if said else ""


def _is_installed(file: str) -> bool:
    installed = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders = [Path(__file__).parent, *(Path(folder) for folder in installed)]
    return file.startswith("<") or any(Path(file).is_relative_to(folder) for folder in folders)


def unknown_name(kind: str, name: str, known: Iterable[str], *, otherwise: str = "") -> UsageError:
    """The error for a name that is not in a table, with the nearest known names.

    Args:
        kind: what is named.
        name: the unknown name.
        known: the names in the table.
        otherwise: the hint where no known name is near and the table is long. Default: a few of the names.

    >>> str(unknown_name("unit", "circel", ["circle", "conv"]))
    "unknown unit 'circel'; did you mean 'circle'?"
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        hint = "did you mean " + " or ".join(repr(n) for n in near) + "?"
    elif len(names) > 12 and otherwise:
        hint = otherwise
    elif len(names) > 12:
        hint = "known: " + ", ".join(names[:12]) + f", ... ({len(names)} in all)"
    else:
        hint = "known: " + (", ".join(names) or "none")
    return UsageError(f"unknown {kind} {name!r}; {hint}")


def check_choice(option: str, value: object, allowed: Iterable[object]) -> None:
    """Raise a `UsageError` (a `ValueError`) naming option, value and what is allowed, unless it is allowed."""
    choices = tuple(allowed)
    if value not in choices:
        raise UsageError(f"{option}={value!r} is not allowed; choose one of {', '.join(map(repr, choices))}")


def check_known(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise the `UsageError` of `unknown_name` for the first of these names that is not in a table."""
    table = list(known)
    for name in names:
        if name not in table:
            raise unknown_name(kind, name, table)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether this is an `int` and not a `bool`. In Python True equals 1, but nobody means True as a count."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether this is a finite `int` or `float` and not a `bool`."""
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def check_whole(
    option: str,
    value: object,
    least: int | None = 1,
    most: int | None = None,
    *,
    odd: bool = False,
    hint: str = "",
) -> int:
    """Return the value if it is a whole number within the bounds (None: no bound).

    Args:
        option: the option's name, for the message.
        value: the value to check. A `bool` does not count as a whole number.
        least: the smallest allowed value.
        most: the largest allowed value.
        odd: whether even numbers are refused.
        hint: text that the message adds behind the bounds.

    Raises:
        UsageError: the value is not allowed. The message names option, value and what is allowed.

    >>> check_whole("radius", 2)
    2
    """
    below = least is not None and is_whole(value) and value < least
    above = most is not None and is_whole(value) and value > most
    if not is_whole(value) or below or above or (odd and value % 2 == 0):
        kind = "an odd whole number" if odd else "a whole number"
        bounds = "" if least is None else f" of at least {least}" if most is None else f" from {least} to {most}"
        raise UsageError(f"{option}={value!r} is not allowed; give {kind}{bounds}{hint}")
    return value


def check_number(option: str, value: object, allowed: Callable[[Any], bool], wanted: str) -> float:
    """Return the value if it is a finite number, not a `bool`, and `allowed` accepts it.

    Raises:
        UsageError: the value is not such a number. The message names option and value, and asks for `wanted`.

    >>> check_number("dropout", 0.5, lambda p: 0 <= p < 1, "a number from 0 to below 1")
    0.5
    """
    if not is_number(value) or not allowed(value):
        raise UsageError(f"{option}={value!r} is not allowed; give {wanted}")
    return value
