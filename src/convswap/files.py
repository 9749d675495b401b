"""Writing files so that a crash or a full disk leaves the old content or the new, never a part of it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from pathlib import Path

from .errors import StoreError

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
FREE_SPACE = "free some space, then run the same command again: finished work is kept"
_NEXT_TO_NOTHING = 1 << 20


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Replace a file atomically: write a new file beside it, flush that to the disk, then rename it over the old one.

    Raises:
        StoreError: the file could not be written (full disk, no permission). The old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # not tempfile: only the owner may read its files, but others should be able to read a report
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # after a successful rename the new file is no longer here
            temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove the files that killed processes left behind in `write_atomically`. Nobody else may write to the folder."""
    for path in folder.glob(".*.????????.tmp"):
        path.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> StoreError:
    """The error for a file that could not be written, with the way to fix it."""
    if error.errno in DISK_FULL:
        return full_disk_error(path)
    return StoreError(f"could not write {path}: {error.strerror or error}; what was saved before is intact")


def full_disk_error(path: Path) -> StoreError:
    """The error for a full disk. It names the file that could not be written, and says that nothing is lost."""
    return StoreError(f"the disk is full: could not write {path}; what was saved before is intact: {FREE_SPACE}")


def disk_is_full(error: BaseException, directory: Path) -> bool:
    """Did a full disk (or quota) cause this error? Some libraries report a full disk as a plain RuntimeError."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in DISK_FULL:
            return True
        seen = seen.__cause__ or seen.__context__
    writes = isinstance(error, (OSError, RuntimeError))
    return writes and directory.is_dir() and shutil.disk_usage(directory).free < _NEXT_TO_NOTHING


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can open folders."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
