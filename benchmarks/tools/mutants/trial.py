"""The trial of one mutant, and the record with which a run goes on where it ended."""

from __future__ import annotations

import hashlib
import json
import shlex
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from .catalogue import Mutant
from .copies import Runner, applied

#: Seconds for the tests of one selection.
LIMIT_S = 900.0


class Record:
    """Outcomes by key, in a growing file of JSON lines; safe to use from several threads."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self._path, self._lock = path, threading.Lock()
        self._rows: dict[str, dict[str, Any]] = {}
        if path.is_file() and not fresh:
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self._rows[row["key"]] = row

    def get(self, key: str) -> dict[str, Any] | None:
        """The outcome kept under a key, or None."""
        return self._rows.get(key)

    def put(self, key: str, row: dict[str, Any]) -> dict[str, Any]:
        """Keep an outcome."""
        row = {"key": key, **row}
        with self._lock:
            self._rows[key] = row
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        return row


def check_right(selections: Iterable[str], tests: Runner, record: Record) -> None:
    """RuntimeError unless these tests pass without a bug, within the limit. Otherwise their failure means nothing."""
    keys = {one: hashlib.sha256(one.encode() + _content(tests.folder)).hexdigest() for one in sorted(set(selections))}
    new = [one for one, key in keys.items() if record.get(key) is None]
    for start in range(0, len(new), 50):  # together, which saves one start of pytest for each
        part = new[start : start + 50]
        status, _, output = tests.run(" ".join(part), LIMIT_S)
        if status != 0:
            raise RuntimeError(f"a test that noticed a bug fails without any (status {status}):\n{output}")
        for one in part:
            record.put(keys[one], {"right": one})


@cache
def _content(folder: Path) -> bytes:
    """A hash of the copy's code and tests, taken while it holds no bug."""
    digest = hashlib.sha256()
    for path in sorted([*(folder / "src").rglob("*.py"), *(folder / "tests").rglob("*.py")]):
        digest.update(path.read_bytes())
    return digest.digest()


def judge(mutant: Mutant, tests: Runner) -> dict[str, Any]:
    """Run the mutant's tests, selection by selection, until one notices the bug.

    `by` in the outcome is the test that failed, or the selection if no test could be named; see `check_right`.
    """
    total = 0.0
    for selection in mutant.tests:
        with applied(mutant, tests.folder):
            status, seconds, output = tests.run(selection, LIMIT_S)
        total += seconds
        if status != 0:
            failed = _first_failure(output) if status is not None else ""
            by = shlex.quote(failed) if failed else selection
            return _row(mutant, "timeout" if status is None else "killed", total, by)
    return _row(mutant, "survived", total, None)


def _row(mutant: Mutant, outcome: str, seconds: float, by: str | None) -> dict[str, Any]:
    return {
        "room": mutant.room,
        "name": mutant.name,
        "outcome": outcome,
        "equivalent": mutant.equivalent,
        "by": by,
        "seconds": round(seconds, 1),
    }


def _first_failure(output: str) -> str:
    """The test that pytest's summary names; nothing if the process died before a summary."""
    for line in output.splitlines():
        if line.startswith(("FAILED ", "ERROR ")):
            return line.split(" - ")[0].partition(" ")[2].strip()
    return ""
