"""What a lab's report is given: the command, and the versions and machine of the latest result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convswap.lab import Store, Trial
from convswap.lab.publish import note_command, publish
from convswap.lab.store import STORE_FILE


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `write_report` is called with."""
    seen: dict[str, Any] = {}

    def write_report(lab: Path, rows: Any, trials: Any, **named: Any) -> Path:
        seen.update(named, rows=rows, trials=trials)
        return lab / "report.html"

    monkeypatch.setattr("convswap.lab.report.write_report", write_report)
    return seen


def fill(lab: Path) -> None:
    with Store(lab / STORE_FILE) as store:
        for seed, version in enumerate(("1", "2")):
            described = Trial(model="m", data="digits", data_fingerprint="f", recipe={}, seed=seed)
            result = {"test_accuracy": 0.5, "versions": {"torch": version}, "machine": {"threads": seed}}
            store.add(described)
            store.finish(described.id, result)
        store.add(Trial(model="m", data="digits", data_fingerprint="f", recipe={}, seed=9))


def test_versions_and_machine_are_those_of_the_latest_result(tmp_path: Path, given: dict[str, Any]) -> None:
    fill(tmp_path)
    rows, page = publish(tmp_path, data={"classes": 10})
    assert page == tmp_path / "report.html"
    assert (given["versions"], given["machine"]) == ({"torch": "2"}, {"threads": 1})
    assert given["data"] == {"classes": 10}
    assert given["rows"] == rows
    assert [record["status"] for record in given["trials"]] == ["finished", "finished", "pending"]


def test_every_command_is_noted_once_in_order(tmp_path: Path, given: dict[str, Any]) -> None:
    fill(tmp_path)
    publish(tmp_path)
    assert given["command"] == "not recorded: the lab was filled from Python"
    for command in ("convswap compare a", "convswap compare b", "convswap compare a"):
        note_command(tmp_path, command)
    publish(tmp_path)
    assert given["command"] == "convswap compare a\nconvswap compare b"
