"""A file in which the facts on image files are kept, so that a repeated command need not read them again."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from .._version import __version__
from ..errors import StoreError
from ..files import write_atomically
from .inspection import FileFacts, inspect_files
from .scan import Entry

_log = logging.getLogger("convswap")


def inspect_entries(entries: Sequence[Entry], root: Path, cache: Path | None) -> list[FileFacts | str]:
    """The facts on every file, in order, from the cache where the file is unchanged, and else from the file.

    Args:
        entries: the files. Size, times and number of each (`Entry.status`) must be those in the cache.
        root: the folder they lie in.
        cache: the folder of the cache, or None to read all files. A damaged cache counts as none.
    """
    if cache is None:
        return list(inspect_files([entry.path for entry in entries]))
    place = cache / f"images-{sha256(str(root.absolute()).encode(errors='surrogateescape')).hexdigest()[:8]}.json"
    kept = _read(place)
    keys = [entry.path.relative_to(root).as_posix() for entry in entries]
    known = [_known(kept.get(key), entry) for key, entry in zip(keys, entries, strict=True)]
    fresh = inspect_files([entry.path for entry, facts in zip(entries, known, strict=True) if facts is None])
    found = [next(fresh) if facts is None else facts for facts in known]
    if None in known:
        _write(place, dict(zip(keys, zip(entries, found, strict=True), strict=True)))
    return found


def _known(row: object, entry: Entry) -> FileFacts | None:
    if not isinstance(row, dict) or row.get("status") != list(entry.status) or not entry.status:
        return None
    try:
        return FileFacts(**row["facts"])
    except (KeyError, TypeError):
        return None


def _read(place: Path) -> Mapping[str, object]:
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or damaged: the images are read, and the file is written anew
        return {}
    files = content.get("files") if isinstance(content, dict) and content.get("version") == _version() else None
    return files if isinstance(files, dict) else {}


def _write(place: Path, found: Mapping[str, tuple[Entry, FileFacts | str]]) -> None:
    rows = {
        key: {"status": entry.status, "facts": asdict(facts)}
        for key, (entry, facts) in found.items()
        if isinstance(facts, FileFacts)
    }
    try:
        write_atomically(place, json.dumps({"version": _version(), "files": rows}).encode())
    except StoreError as error:  # the work can go on without; whoever needs the folder will say so, too
        _log.info("%s", error)


def _version() -> str:
    """Another decoder may see another size or depth."""
    import PIL

    return f"convswap {__version__}, Pillow {PIL.__version__}"
