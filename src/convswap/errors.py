"""Errors a person can act on.

Everything raised on purpose for bad input derives from `ConvswapError`: the command line prints it as one
line without a traceback. Programming errors are never wrapped and keep their traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ConvswapError(Exception):
    """Base of all errors that name the thing, the value and the nearest fix."""


class UsageError(ConvswapError, ValueError):
    """An argument has a value that is not allowed (unknown name, bad option)."""


class SurgeryError(ConvswapError, RuntimeError):
    """A model cannot be changed as asked (nothing matched, wrapped in DDP, held by an optimizer, ...)."""


class FusionError(ConvswapError, RuntimeError):
    """The fused model does not compute the same function, or cannot be verified."""


class DataError(ConvswapError, RuntimeError):
    """A data set is missing, incomplete or unreadable."""


class TrainingError(ConvswapError, RuntimeError):
    """Training cannot go on (NaN loss, a checkpoint of another run, ...)."""


class StoreError(ConvswapError, RuntimeError):
    """A file or a lab on disk is damaged or was written by another version."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is in no table, with the nearest known names.

    >>> str(unknown_name("unit", "circel", ["circle", "conv"]))
    "unknown unit 'circel'; did you mean 'circle'?"
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        hint = "did you mean " + " or ".join(repr(n) for n in near) + "?"
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
