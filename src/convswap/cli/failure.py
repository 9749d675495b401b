"""Turning an exception into the one line that the user reads, or into None for a programming error."""

from __future__ import annotations

import errno

from ..errors import ConvswapError, UsageError
from ..files import DISK_FULL, FREE_SPACE
from ..packages import find_optional


class Failure(Exception):
    """One line for stderr and an exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code


def as_failure(error: BaseException) -> Failure | None:
    """The line for the user, or None for an error whose traceback they need."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Failure("interrupted; " + (" ".join(notes_of(error)) or "nothing was left half-written"), 130)
    if isinstance(error, ConvswapError):
        return Failure(f"error: {error}", 2 if isinstance(error, UsageError) else 1)
    if isinstance(error, ModuleNotFoundError):
        return _missing(error)
    if isinstance(error, OSError):
        return Failure(f"error: {_operating_system(error)}")
    return None


def notes_of(error: BaseException) -> list[str]:
    """The notes added to the error on its way up: how to resume, what was being written.

    A second Ctrl-C on the way is another error, and the notes of the first count as well.
    """
    notes: list[str] = []
    seen: BaseException | None = error
    while isinstance(seen, type(error)):
        notes += [note for note in getattr(seen, "__notes__", []) if note not in notes]
        seen = seen.__context__
    return notes


def _missing(error: ModuleNotFoundError) -> Failure | None:
    package = find_optional(error.name or "")
    if package is None:
        return None
    return Failure(f"error: {package.name} is not installed; {package.purpose} needs it: {package.how_to_install}")


def _operating_system(error: OSError) -> str:
    place = f" {error.filename!r}" if error.filename else ""
    hint = {
        **dict.fromkeys(DISK_FULL, FREE_SPACE),
        errno.EACCES: "check its permissions, or name another place",
        errno.EPERM: "check its permissions, or name another place",
        errno.EROFS: "the disk is read-only: name another place",
        errno.ENOENT: "check the path",
        errno.ENOTDIR: "a folder is needed there",
        errno.EISDIR: "a file is needed there, but this is a folder",
        errno.EEXIST: "name another place",
    }.get(error.errno or 0)
    reason = error.strerror or str(error) or type(error).__name__
    text = f"{reason}:{place}" if place else reason
    extra = "; ".join([*([hint] if hint else []), *notes_of(error)])
    return f"{text}; {extra}" if extra else text
