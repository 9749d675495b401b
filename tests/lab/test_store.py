"""The store: states, one writer, and an answer for every kind of damaged file."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from convswap.errors import StoreError
from convswap.lab.store import LOCK_FILE, Store
from convswap.lab.trial import Trial


def make(seed: int = 0, **changes: Any) -> Trial:
    values = {"model": "m", "data": "digits", "data_fingerprint": "f", "recipe": {"epochs": 1}, "unit": "circle"}
    return Trial(**{**values, "seed": seed, **changes})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "lab" / "lab.sqlite"


def test_a_trial_goes_through_its_states_and_survives_reopening(file: Path) -> None:
    with Store(file) as store:
        ids = [store.add(make(seed)) for seed in range(5)]
        for id in ids[1:]:
            store.start(id)
        store.finish(ids[2], {"test_accuracy": 0.1 + 0.2})
        store.fail(ids[3], "Traceback: boom")
        store.interrupt(ids[4])
    with Store(file, write=False) as store:
        rows = store.rows()
    assert [row.id for row in rows] == ids
    assert [row.state for row in rows] == ["pending", "running", "finished", "failed", "interrupted"]
    assert [row.trial for row in rows] == [make(seed) for seed in range(5)]
    assert rows[2].result == {"test_accuracy": 0.1 + 0.2}
    assert rows[3].traceback == "Traceback: boom"
    assert rows[0].started is None
    assert rows[2].started is not None
    assert rows[2].ended is not None


def test_a_known_id_keeps_its_state_and_learns_where_files_moved(file: Path) -> None:
    old, new = (make(weights={"file": name, "sha256": "1"}) for name in ("old", "new"))
    with Store(file) as store:
        id = store.add(old)
        assert store.add(new) == id
        assert store.get(id).trial == new
        store.finish(id, {"test_accuracy": 1.0})
        store.add(old)
        assert (store.get(id).state, store.get(id).trial) == ("finished", new)
        assert len(store.rows()) == 1


def test_running_again_after_a_failure_clears_the_traceback(file: Path) -> None:
    with Store(file) as store:
        id = store.add(make())
        store.fail(id, "boom")
        store.start(id)
        assert store.get(id).traceback is None


def test_an_unknown_id_is_a_programming_error(file: Path) -> None:
    with Store(file) as store:
        with pytest.raises(KeyError):
            store.finish("nothing", {})
        with pytest.raises(KeyError):
            store.get("nothing")


def test_a_result_with_nan_is_refused(file: Path) -> None:
    with Store(file) as store:
        id = store.add(make())
        with pytest.raises(ValueError, match="JSON"):
            store.finish(id, {"test_loss": float("nan")})
        assert store.get(id).state == "pending"


def test_a_second_writer_in_the_same_process_is_refused(file: Path) -> None:
    with Store(file):
        with pytest.raises(StoreError, match="already open for writing in this process"):
            Store(file)
        with Store(file, write=False) as reader:
            assert reader.rows() == []
    with Store(file) as again:
        assert again.rows() == []


HOLD = """
import sys, time
from convswap.lab.store import Store
store = Store(sys.argv[1])
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(file: Path) -> Any:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_writing_process_is_refused_and_a_dead_ones_lock_is_not(file: Path, holder: Any) -> None:
    for _ in range(2):  # a refused attempt must not drop the holder's lock
        with pytest.raises(StoreError, match=rf"in use by process {holder.pid} on .* since 20.*choose another lab"):
            Store(file)
    with Store(file, write=False) as reader:
        assert reader.rows() == []
    os.kill(holder.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    holder.wait()
    with Store(file) as store:
        assert json.loads(file.with_name(f"{LOCK_FILE}.holder").read_text())["pid"] == os.getpid()
        store.add(make())
    assert not file.with_name(f"{LOCK_FILE}.holder").exists()


ORPHAN = """
import os, signal, sys, time
from convswap.lab.store import Store
store = Store(sys.argv[1])
child = os.fork()
if child == 0:
    time.sleep(60)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked there")
def test_a_worker_that_outlives_its_killed_parent_does_not_keep_the_lock(file: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHAN, str(file)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        assert process.wait() == -signal.SIGKILL
        try:
            os.kill(worker, 0)  # it is alive
            with Store(file) as store:
                store.add(make())
        finally:
            os.kill(worker, signal.SIGKILL)


def test_a_lab_held_by_nobody_known_is_still_in_use(file: Path, holder: Any) -> None:
    file.with_name(f"{LOCK_FILE}.holder").write_text("{")
    with pytest.raises(StoreError, match="in use by another process"):
        Store(file)


def test_reading_needs_a_lab(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no lab at .*lab\.sqlite is missing"):
        Store(tmp_path / "lab.sqlite", write=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [True, False])
def test_a_file_that_is_no_database(file: Path, write: bool) -> None:
    file.parent.mkdir()
    file.write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match=r"lab\.sqlite is damaged .*move it away"):
        Store(file, write=write)
    file.unlink()
    Store(file).close()  # the lock was given up


def test_a_database_of_somebody_else(file: Path) -> None:
    file.parent.mkdir()
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE photos (id)")
    connection.close()
    with pytest.raises(StoreError, match=r"lab\.sqlite is an SQLite file, but not a convswap lab"):
        Store(file)


def edit(file: Path, statement: str) -> None:
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute(statement)
    connection.close()


def test_a_lab_of_another_version(file: Path) -> None:
    Store(file).close()
    edit(file, "UPDATE meta SET value = '3' WHERE key = 'version'")
    with pytest.raises(StoreError, match=r"lab\.sqlite was written by convswap .*lab version 3.*another lab folder"):
        Store(file)


def test_a_torn_file(file: Path) -> None:
    with Store(file) as store:
        for seed in range(300):
            store.add(make(seed))
    content = bytearray(file.read_bytes())
    content[8192:-4096] = b"\x5a" * (len(content) - 12288)
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"lab\.sqlite is damaged .*move it away"):
        Store(file)


def test_a_damaged_description(file: Path) -> None:
    with Store(file) as store:
        store.add(make())
    edit(file, "UPDATE trials SET description = '{}'")
    with Store(file) as store, pytest.raises(StoreError, match=r"lab\.sqlite is damaged \(trial .*missing"):
        store.rows()


def test_a_full_disk_loses_nothing(file: Path) -> None:
    with Store(file) as store:
        id = store.add(make())
        store.finish(id, {"test_accuracy": 0.5})
        # SQLite's own limit gives the error that a full disk gives.
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match=r"the disk is full: could not write .*lab\.sqlite; .* free some space"):
            store.add(make(1, unit_options={"text": "x" * 100_000}))
    with Store(file) as store:
        assert store.rows()[0].result == {"test_accuracy": 0.5}


def test_a_lab_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "lab").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"lab .* cannot be written: .*choose another folder"):
        Store(tmp_path / "lab" / "lab.sqlite")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_lab_on_a_read_only_disk_can_be_read(file: Path) -> None:
    with Store(file) as store:
        store.add(make())
    file.parent.chmod(0o500)
    try:
        with Store(file, write=False) as store:
            assert len(store.rows()) == 1
        with pytest.raises(StoreError):
            Store(file)
    finally:
        file.parent.chmod(0o700)


def test_a_foreign_database_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "lab.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not a convswap lab"):
        Store(path)
    assert path.read_bytes() == before
