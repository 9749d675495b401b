"""Files of a lab: written whole or not at all, read back with a message when damaged; and full disks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..files import DISK_FULL, write_atomically

_NEXT_TO_NOTHING = 1 << 20


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a power cut, finds the old file or the new one, never a part.

    Raises:
        StoreError: it could not be written; what was there before is untouched.
    """
    write_atomically(path, text.encode())


def read_object(path: Path, fix: str) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        StoreError: it is damaged; the message ends with `fix`.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is damaged ({error}); {fix}") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path} is damaged (no JSON object); {fix}")
    return value


def disk_is_full(error: BaseException, directory: Path) -> bool:
    """Is a full disk (or quota) behind this error? Some libraries report it as a plain RuntimeError."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in DISK_FULL:
            return True
        seen = seen.__cause__ or seen.__context__
    writes = isinstance(error, (OSError, RuntimeError))
    return writes and directory.is_dir() and shutil.disk_usage(directory).free < _NEXT_TO_NOTHING


def full_disk_error(path: Path) -> StoreError:
    """The error for a full disk: what could not be written, and that nothing is lost."""
    return StoreError(
        f"the disk is full: {path} could not be written; free some space, then run the same command again: "
        "finished trials and the last checkpoint are kept"
    )
