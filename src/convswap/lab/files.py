"""Files of a lab. They are written completely or not at all, and a damaged file is refused with a message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..files import write_atomically


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader, even after a power cut, finds the old file or the new one, never a part.

    Raises:
        StoreError: the file could not be written. The old file is untouched.
    """
    write_atomically(path, text.encode())


def read_object(path: Path, fix: str) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        StoreError: the file is damaged. The message ends with `fix`.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is damaged ({error}); {fix}") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path} is damaged (not a JSON object); {fix}")
    return value
