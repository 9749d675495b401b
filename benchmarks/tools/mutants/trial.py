"""The trial of one mutant, and the record that lets a run go on where it ended."""

from __future__ import annotations

import hashlib
import json
import threading
from functools import cache
from pathlib import Path
from typing import Any

from .catalogue import Mutant
from .copies import Runner, applied

#: A mutant may take this many times as long as the tests take without it, and a minute more.
SLOWER, EXTRA_S = 10.0, 60.0


class Record:
    """Outcomes by key, in a file of JSON lines that grows; safe to use from several threads."""

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


def baseline_seconds(selection: str, tests: Runner, record: Record, *, alone: bool = False) -> float:
    """How long these tests take without a bug; RuntimeError where they fail: they can then tell nothing about bugs.

    `alone`: a time from `measure_together` does not do.
    """
    key = _baseline_key(selection, tests.folder)
    known = record.get(key)
    if known is None or (alone and known["together"]):
        status, seconds, output = tests.run(selection, limit_s=1800)
        if status != 0:
            raise RuntimeError(f"`pytest {selection}` fails without any bug (status {status}):\n{output}")
        known = record.put(key, {"baseline": selection, "seconds": round(seconds, 1), "together": False})
    return float(known["seconds"])


def measure_together(mutants: list[Mutant], tests: Runner, record: Record) -> None:
    """Run the first selections of many mutants in one go without a bug, which spares the start of pytest for each.

    The time of one is then known as the mean only; `judge` measures again where a limit from it passes. Selections
    by keyword (`-k`) are left to `judge`.
    """
    firsts = {mutant.tests[0] for mutant in mutants if "-k" not in mutant.tests[0]}
    new = sorted(one for one in firsts if record.get(_baseline_key(one, tests.folder)) is None)
    if not new:
        return
    status, seconds, output = tests.run(" ".join(new), limit_s=3600)
    if status != 0:
        raise RuntimeError(f"tests fail without any bug (status {status}):\n{output}")
    for selection in new:
        row = {"baseline": selection, "seconds": round(seconds / len(new), 1), "together": True}
        record.put(_baseline_key(selection, tests.folder), row)


def _baseline_key(selection: str, folder: Path) -> str:
    digest = hashlib.sha256(selection.encode() + _content(folder))
    return digest.hexdigest()


@cache
def _content(folder: Path) -> bytes:
    """A hash of the copy's code and tests; asked for while no bug stands in it."""
    digest = hashlib.sha256()
    for path in sorted([*(folder / "src").rglob("*.py"), *(folder / "tests").rglob("*.py")]):
        digest.update(path.read_bytes())
    return digest.digest()


def judge(mutant: Mutant, tests: Runner, record: Record) -> dict[str, Any]:
    """Run the mutant's tests, selection by selection, until one notices."""
    total = 0.0
    for selection in mutant.tests:
        for alone in (False, True):
            limit = EXTRA_S + SLOWER * baseline_seconds(selection, tests, record, alone=alone)
            with applied(mutant, tests.folder):
                status, seconds, output = tests.run(selection, limit)
            total += seconds
            if status is not None:
                break
        if status is None:
            return _row(mutant, "timeout", total, selection, "")
        if status != 0:
            return _row(mutant, "killed", total, selection, _first_failure(output))
    return _row(mutant, "survived", total, None, "")


def _row(mutant: Mutant, outcome: str, seconds: float, selection: str | None, by: str) -> dict[str, Any]:
    return {
        "room": mutant.room,
        "name": mutant.name,
        "outcome": outcome,
        "equivalent": mutant.equivalent,
        "by": by or selection,
        "seconds": round(seconds, 1),
    }


def _first_failure(output: str) -> str:
    """The test that pytest's summary names; nothing where the process died before a summary."""
    for line in output.splitlines():
        if line.startswith(("FAILED ", "ERROR ")):
            return line.split(" - ")[0].partition(" ")[2].strip()
    return ""
