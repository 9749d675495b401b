"""Writing files so that a crash or a full disk leaves the old content or the new, never half of it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

from .errors import StoreError

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Replace a file at once: written beside it, flushed to the disk, then renamed over it.

    Raises:
        StoreError: it could not be written (full disk, no permission); what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # not tempfile: its files are for their owner alone, and a report is for others to read
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # renamed away if all went well
            temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left of `write_atomically`; for a folder that nobody else writes to."""
    for path in folder.glob(".*.????????.tmp"):
        path.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> StoreError:
    """The error for a file that could not be written, with what to do about it."""
    if error.errno in DISK_FULL:
        return StoreError(
            f"the disk is full: could not write {path}; what was saved before is intact, "
            "free some space and start again to go on from there"
        )
    return StoreError(f"could not write {path}: {error.strerror or error}; what was saved before is intact")


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can open folders."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
