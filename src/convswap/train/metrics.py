"""The per-epoch metrics file: one JSON object per line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..files import cannot_write, write_atomically


def to_line(row: dict[str, Any]) -> str:
    """One epoch as a line of strict JSON; floats keep every digit."""
    return json.dumps(row, allow_nan=False) + "\n"


def append_metrics(path: Path, row: dict[str, Any]) -> None:
    """Append the line of one epoch and flush it to the disk."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(to_line(row))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error


def rewrite_metrics(path: Path, history: list[dict[str, Any]]) -> None:
    """Make the file hold exactly these epochs. After a resume, no epoch then stands there twice or in part."""
    write_atomically(path, "".join(map(to_line, history)).encode())
