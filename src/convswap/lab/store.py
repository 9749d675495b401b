"""The store of a lab: one SQLite file (WAL) with a row per trial, written by one process and read by any."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from .._version import __version__
from ..errors import StoreError
from ..files import disk_is_full, full_disk_error
from .lock import LabLock
from .trial import Trial, canonical_json

STORE_VERSION = "2"
STORE_FILE = "lab.sqlite"
LOCK_FILE = "lab.lock"

State = Literal["pending", "running", "finished", "failed", "interrupted"]

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE trials (
    position INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending'
        CHECK (state IN ('pending', 'running', 'finished', 'failed', 'interrupted')),
    result TEXT,
    traceback TEXT,
    started REAL,
    ended REAL,
    CHECK ((state = 'finished') = (result IS NOT NULL))
);
"""


@dataclass(frozen=True)
class StoredTrial:
    """One row of the store.

    Attributes:
        id: the trial's id.
        trial: its description.
        state: `"running"` without a living writer means that the process died; the next run resumes it.
        result: the return value of `run_trial`, if finished.
        traceback: the traceback of the last failure, if failed.
        started: last start, in seconds since 1970.
        ended: last finish, failure or interruption.
    """

    id: str
    trial: Trial
    state: State
    result: dict[str, Any] | None
    traceback: str | None
    started: float | None
    ended: float | None

    def reason(self, most: int = 300) -> str:
        """Why the trial failed, in one line: the text of the last exception in the traceback."""
        lines = (self.traceback or "").rstrip().splitlines()
        inside = [number for number, line in enumerate(lines) if line.startswith("  ")]
        said = " ".join(" ".join(lines[inside[-1] + 1 :] if inside else lines[-1:]).split())
        return said[:most] or "no reason was recorded"

    def as_record(self) -> dict[str, Any]:
        """The row in the form that the report takes: `id`, `status`, `trial` (as a dict), `result`, `traceback`."""
        return {
            "id": self.id,
            "status": self.state,
            "trial": asdict(self.trial),
            "result": self.result,
            "traceback": self.traceback,
        }


class Store:
    """The trials of one lab. A context manager; opened for writing, it locks the lab until closed.

    Args:
        path: the path of the SQLite file, `LAB/lab.sqlite`. The file is created if it does not exist.
        write: False opens the store only for reading. It takes no lock, and the file must exist.

    Raises:
        StoreError: the file is damaged, of another version, not a lab, or being written by another process.
    """

    def __init__(self, path: str | Path, *, write: bool = True) -> None:
        self.path = Path(path)
        self._lock: LabLock | None = None
        if not write and not self.path.is_file():
            raise StoreError(f"there is no lab at {self.path.parent}: {self.path.name} is missing; check the path")
        if write:
            self._lock = _lock_folder(self.path)
        try:
            with self._guard():
                self._connection = self._open(write)
        except BaseException:
            self._release()
            raise

    def add(self, trial: Trial) -> str:
        """Enter a trial as pending and return its id. A known id keeps its state (only moved files are recorded)."""
        self._write(
            "INSERT INTO trials (id, description) VALUES (?, ?) ON CONFLICT (id) DO UPDATE "
            "SET description = excluded.description WHERE state != 'finished'",
            (trial.id, trial.to_json()),
        )
        return trial.id

    def start(self, id: str) -> None:
        """Mark a trial as running."""
        self._set(id, "running", started=time.time())

    def finish(self, id: str, result: dict[str, Any]) -> None:
        """Record a trial's result."""
        self._set(id, "finished", result=canonical_json(result), ended=time.time())

    def fail(self, id: str, traceback: str) -> None:
        """Record why a trial failed."""
        self._set(id, "failed", traceback=traceback, ended=time.time())

    def interrupt(self, id: str) -> None:
        """Mark a trial that was stopped on request. Its checkpoint stays."""
        self._set(id, "interrupted", ended=time.time())

    def forget(self, id: str) -> None:
        """Remove a trial's row. Its folder is left alone.

        Raises:
            KeyError: no trial has this id.
        """
        if self._write("DELETE FROM trials WHERE id = ?", (id,)) != 1:
            raise KeyError(id)

    def get(self, id: str) -> StoredTrial:
        """One trial's row.

        Raises:
            KeyError: no trial has this id.
        """
        found = self._select("WHERE id = ?", (id,))
        if not found:
            raise KeyError(id)
        return found[0]

    def rows(self) -> list[StoredTrial]:
        """Every trial, in the order they were added."""
        return self._select("", ())

    def close(self) -> None:
        """Close the file and release the lock."""
        self._connection.close()
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _open(self, write: bool) -> sqlite3.Connection:
        # Even a reader needs WAL's side files. In a read-only folder nobody writes, so they can be left out.
        frozen = not write and not os.access(self.path.parent, os.W_OK)
        mode = "ro&immutable=1" if frozen else "rwc" if write else "rw"
        connection = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None)
        try:
            if write and connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                _create(connection)
            self._check(connection)
            if write:  # after the check: this writes into the file, and a foreign file must not be touched
                connection.execute("PRAGMA journal_mode = WAL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"meta", "trials"} <= tables:
            raise StoreError(f"{self.path} is an SQLite file, but not a convswap lab; choose another lab folder")
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        if meta.get("version") != STORE_VERSION:
            raise StoreError(
                f"{self.path} was written by convswap {meta.get('convswap', '?')} (lab version "
                f"{meta.get('version', '?')}; this is convswap {__version__}, lab version {STORE_VERSION}); use that "
                "convswap, or choose another lab folder"
            )
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreError(self._damaged(verdict))

    def _set(self, id: str, state: State, **values: Any) -> None:
        columns = {"result": None, "traceback": None} | values | {"state": state}
        assignments = ", ".join(f"{name} = ?" for name in columns)
        changed = self._write(f"UPDATE trials SET {assignments} WHERE id = ?", (*columns.values(), id))
        if changed != 1:
            raise KeyError(id)

    def _write(self, statement: str, values: tuple[Any, ...]) -> int:
        with self._guard():
            return self._connection.execute(statement, values).rowcount

    def _select(self, condition: str, values: tuple[Any, ...]) -> list[StoredTrial]:
        names = "id, description, state, result, traceback, started, ended"
        with self._guard():
            found = self._connection.execute(f"SELECT {names} FROM trials {condition} ORDER BY position", values)
            rows = found.fetchall()
        return [self._row(row) for row in rows]

    def _row(self, row: tuple[Any, ...]) -> StoredTrial:
        id, description, state, result, traceback, started, ended = row
        try:
            trial = Trial.from_json(description)
            parsed = None if result is None else json.loads(result)
        except (StoreError, json.JSONDecodeError) as error:
            raise StoreError(self._damaged(f"trial {id}: {error}")) from error
        return StoredTrial(id, trial, state, parsed, traceback, started, ended)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Turn SQLite's errors about the file into a `StoreError`. Wrong SQL stays a programming error."""
        try:
            yield
        except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
            raise
        except sqlite3.DatabaseError as error:
            name = getattr(error, "sqlite_errorname", "")
            if name == "SQLITE_FULL" or disk_is_full(error, self.path.parent):
                raise full_disk_error(self.path) from error
            if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or not name:
                raise StoreError(self._damaged(error)) from error
            raise StoreError(f"{self.path} cannot be used: {error}; check its permissions and its disk") from error

    def _damaged(self, reason: object) -> str:
        return (
            f"{self.path} is damaged ({' '.join(str(reason).split())}); move it away and run the same command again: "
            f"finished trials are read back from {self.path.parent / 'trials'}"
        )

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _lock_folder(path: Path) -> LabLock:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return LabLock(path.parent / LOCK_FILE)
    except OSError as error:
        if disk_is_full(error, path.parent):
            raise full_disk_error(path) from error
        raise StoreError(f"lab {path.parent} cannot be written: {error.strerror}; choose another folder") from error


def _create(connection: sqlite3.Connection) -> None:
    # One transaction: a process killed here leaves an empty file, not half a lab.
    connection.executescript(f"BEGIN;{_SCHEMA}")
    connection.executemany("INSERT INTO meta VALUES (?, ?)", [("version", STORE_VERSION), ("convswap", __version__)])
    connection.execute("COMMIT")
