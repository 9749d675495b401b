"""A grid trained for real: failures of the real kind, a lost store, and a request to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convswap.data import Data, load_data
from convswap.lab import Store, Trial, run_grid, summarize
from convswap.lab import run as run_module
from convswap.lab.store import STORE_FILE
from convswap.train import digits_recipe

RECIPE = digits_recipe(epochs=2).as_dict()


def small(num_classes: int, in_channels: int) -> nn.Module:
    """Trains in a fraction of a second."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )


class StopsAfterAnEpoch(nn.Module):
    """Asks its own process to stop, in the middle of the second epoch."""

    armed = True

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.body = small(num_classes, in_channels)
        self.evaluated = False

    def forward(self, x: Tensor) -> Tensor:
        self.evaluated |= not self.training and len(x) > 1
        if self.training and self.evaluated and StopsAfterAnEpoch.armed:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.body(x)


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(data: Data, unit: str = "conv", model: str = "small", **changes: Any) -> Trial:
    values: dict[str, Any] = {"recipe": RECIPE, "seed": 0, **changes}
    return Trial(model=f"{__name__}:{model}", unit=unit, data="digits", data_fingerprint=data.fingerprint, **values)


def test_real_failures_do_not_stop_the_grid(tmp_path: Path, data: Data) -> None:
    trials = [
        make(data),
        make(data, recipe=RECIPE | {"learning_rate": 1e9}),
        make(data, "circle", unit_options={"radius": "enormous"}),
        make(data, "circle", where="nowhere.*"),
        make(data, model="missing"),
        make(data, "circle"),
    ]
    rows = run_grid(trials, tmp_path, progress=False, device="cpu")
    assert [row.state for row in rows] == ["finished", "failed", "failed", "failed", "failed", "finished"]
    last_lines = [(row.traceback or "").strip().splitlines()[-1] for row in rows[1:5]]
    assert last_lines[0].startswith("convswap.errors.TrainingError: the loss is")
    assert "radius" in last_lines[1]
    assert "where='nowhere.*' matches none" in last_lines[2]
    assert "missing" in last_lines[3]
    kept = [row for row in rows if row.state == "finished"]
    assert [row["n_seeds"] for row in summarize(kept)] == [1, 1]


def test_a_lost_store_is_filled_again_without_training(
    tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = run_grid([make(data)], tmp_path, progress=False, device="cpu")
    for file in tmp_path.glob("lab.sqlite*"):
        file.unlink()
    monkeypatch.setattr(run_module, "_train", None)
    (after,) = run_grid([make(data)], tmp_path, progress=False, device="cpu")
    assert after.result == before.result


@pytest.mark.skipif(os.name != "posix", reason="no SIGTERM on this system")
def test_sigterm_stops_between_steps_and_the_next_run_goes_on(
    tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = make(data, model="StopsAfterAnEpoch")
    with pytest.raises(KeyboardInterrupt) as caught:
        run_grid([trial], tmp_path, progress=False, device="cpu")
    assert "run the same command again" in caught.value.__notes__[0]
    with Store(tmp_path / STORE_FILE, write=False) as store:
        assert store.get(trial.id).state == "interrupted"
    monkeypatch.setattr(StopsAfterAnEpoch, "armed", False)
    (row,) = run_grid([trial], tmp_path, progress=False, device="cpu")
    assert row.state == "finished"
    (unbroken,) = run_grid([trial], tmp_path / "unbroken", progress=False, device="cpu")
    assert row.result is not None
    assert unbroken.result is not None
    assert row.result["test_loss"] == unbroken.result["test_loss"]
