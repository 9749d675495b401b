"""The grid: what runs, what is skipped, what is recorded, and what stops it. The trainings are stand-ins."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from convswap.errors import StoreError, TrainingError, UsageError
from convswap.lab import runner
from convswap.lab.progress import GridProgress
from convswap.lab.runner import run_grid
from convswap.lab.store import STORE_FILE, Store
from convswap.lab.trial import Trial

Fake = Callable[[Trial], dict[str, Any]]


def trial(unit: str = "conv", seed: int = 0, **changes: Any) -> Trial:
    values = {"model": "m", "data": "digits", "data_fingerprint": "f", "recipe": {"epochs": 1}}
    return Trial(**{**values, "unit": unit, "seed": seed, **changes})


def good(trial: Trial) -> dict[str, Any]:
    return {"test_accuracy": 0.9 + trial.seed / 100, "seconds": 2.0}


class Trainer:
    """Stands in for `run_trial` and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Trial] = []
        self.fake: Fake = good

    def __call__(self, trial: Trial, directory: Path, **arguments: Any) -> dict[str, Any]:
        self.asked.append(trial)
        assert directory.name == trial.id
        return self.fake(trial)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    stand_in = Trainer()
    monkeypatch.setattr(runner, "run_trial", stand_in)
    return stand_in


def states(lab: Path) -> list[str]:
    with Store(lab / STORE_FILE, write=False) as store:
        return [row.state for row in store.rows()]


GRID = [trial(unit, seed) for seed in range(2) for unit in ("conv", "circle")]


def test_everything_runs_once_in_the_order_given(tmp_path: Path, trainer: Trainer) -> None:
    rows = run_grid([*GRID, GRID[0]], tmp_path, progress=False)
    assert trainer.asked == GRID
    assert [row.id for row in rows] == [t.id for t in (*GRID, GRID[0])]
    assert rows[2].result == {"test_accuracy": 0.91, "seconds": 2.0}
    run_grid(GRID, tmp_path, progress=False)
    assert len(trainer.asked) == 4, "a finished id is never run again"


def test_a_larger_grid_runs_only_what_is_new(tmp_path: Path, trainer: Trainer) -> None:
    run_grid(GRID, tmp_path, progress=False)
    rows = run_grid([*GRID, trial("ic")], tmp_path, progress=False)
    assert trainer.asked[4:] == [trial("ic")]
    assert len(rows) == 5


@pytest.mark.parametrize(
    "error",
    [
        TrainingError("the loss is nan"),
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError("no more"),
        ValueError("a bad unit"),
        UsageError("unknown unit 'x'"),
        StoreError("the checkpoint is damaged"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failure_is_recorded_and_the_grid_goes_on(
    tmp_path: Path, trainer: Trainer, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_one(trial: Trial) -> dict[str, Any]:
        if trial == GRID[1]:
            raise error
        return good(trial)

    trainer.fake = fail_one
    rows = run_grid(GRID, tmp_path)
    assert [row.state for row in rows] == ["finished", "failed", "finished", "finished"]
    traceback = rows[1].traceback
    assert traceback is not None
    assert "fail_one" in traceback
    assert str(error) in traceback.splitlines()[-1]
    assert f"trial 2/4 circle seed 0: failed: {type(error).__name__}: {error}" in capsys.readouterr().err


def test_failed_trials_are_tried_again_only_on_request(
    tmp_path: Path, trainer: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(trial: Trial) -> dict[str, Any]:
        raise ValueError("boom")

    trainer.fake = fail
    run_grid(GRID[:1], tmp_path, progress=False)
    trainer.fake = good
    assert run_grid(GRID[:1], tmp_path)[0].state == "failed"
    assert capsys.readouterr().err == "1 of 1 trials failed before and are left out; --retry-failed tries them again\n"
    (row,) = run_grid(GRID[:1], tmp_path, progress=False, retry_failed=True)
    assert (row.state, row.traceback) == ("finished", None)


@pytest.mark.parametrize("how", ["ctrl-c", "sigterm"])
def test_an_interruption_is_marked_and_raised_with_a_note_and_resumed(
    tmp_path: Path, trainer: Trainer, how: str
) -> None:
    def stop(trial: Trial) -> dict[str, Any]:
        if trial == GRID[1]:
            if how == "ctrl-c":
                raise KeyboardInterrupt
            signal.raise_signal(signal.SIGTERM)
        return good(trial)

    trainer.fake = stop
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as caught:
        run_grid(GRID, tmp_path, progress=False)
    (note,) = caught.value.__notes__
    assert "run the same command again" in note
    assert str(tmp_path) in note
    assert signal.getsignal(signal.SIGTERM) is before
    assert states(tmp_path) == ["finished", "interrupted", "pending", "pending"]
    trainer.fake = good
    run_grid(GRID, tmp_path, progress=False)
    assert states(tmp_path) == ["finished"] * 4
    assert trainer.asked == [GRID[0], GRID[1], *GRID[1:]]


def test_what_a_dead_process_left_running_runs_again(tmp_path: Path, trainer: Trainer) -> None:
    with Store(tmp_path / STORE_FILE) as store:
        for each in GRID[:2]:
            store.start(store.add(each))
    run_grid(GRID[:1], tmp_path, progress=False)
    assert states(tmp_path) == ["finished", "interrupted"], "the other is no longer called running either"


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_stops_the_grid_and_loses_nothing(tmp_path: Path, trainer: Trainer, wrapped: bool) -> None:
    def fill(trial: Trial) -> dict[str, Any]:
        if trial != GRID[1]:
            return good(trial)
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if wrapped:
            raise StoreError("could not write the checkpoint") from full
        raise full

    trainer.fake = fill
    with pytest.raises(StoreError, match=r"the disk is full: .*finished work is kept"):
        run_grid(GRID, tmp_path, progress=False)
    assert states(tmp_path) == ["finished", "interrupted", "pending", "pending"]


def test_two_grids_on_one_lab(tmp_path: Path, trainer: Trainer) -> None:
    with Store(tmp_path / STORE_FILE), pytest.raises(StoreError, match="already open"):
        run_grid(GRID, tmp_path)


def test_an_unknown_engine_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="engine='ray' is not allowed; choose one of 'serial'"):
        run_grid(GRID, tmp_path / "lab", engine="ray")
    assert not (tmp_path / "lab").exists()


def test_progress_lines(tmp_path: Path, trainer: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    run_grid(GRID, tmp_path)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "trial 1/4 conv seed 0: 90.00% in 2 s, about 0:06 left",
        "trial 2/4 circle seed 0: 90.00% in 2 s, about 0:04 left",
        "trial 3/4 conv seed 1: 91.00% in 2 s, about 0:02 left",
        "trial 4/4 circle seed 1: 91.00% in 2 s",
    ]
    assert captured.out == ""
    run_grid([*GRID, trial("conv", 2)], tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        "4 of 5 trials are already finished",
        "trial 5/5 conv seed 2: 92.00% in 2 s",
    ]
    run_grid([trial("conv", 3)], tmp_path, progress=False)
    assert capsys.readouterr().err == ""


def test_the_time_left_knows_the_kinds_of_trials() -> None:
    report = GridProgress(GRID, GRID, show=False)
    assert report.time_left() is None
    report.known(GRID[0], 10)
    assert report.time_left() == "0:40"
    report.known(GRID[1], 3600)
    assert report.time_left() == "2:00:20"
    for each in GRID:
        report.done(each, "done")
    assert report.time_left() is None


def test_several_models_are_named() -> None:
    trials = [trial(model="a"), trial(model="b")]
    assert GridProgress(trials, trials, show=False).label(trials[1]) == "trial 2/2 b conv seed 0"


def test_data_are_loaded_once_for_trials_of_one_size(
    tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import convswap.data

    loaded: list[tuple[str, int | None]] = []

    def load_data(name: str, *, image_size: int | None = None, **rest: Any) -> str:
        loaded.append((name, image_size))
        return f"{name} at {image_size}"

    monkeypatch.setattr(convswap.data, "load_data", load_data)
    grid = [trial(seed=seed, image_size=size) for size in (None, 16, 32) for seed in range(2)]
    run_grid(grid, tmp_path, progress=False)
    assert loaded == [("digits", None), ("digits", 16), ("digits", 32)]
