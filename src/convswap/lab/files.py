"""Files of a lab: written whole or not at all, read back with a message when damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..files import write_atomically


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
