"""kill -9 in the middle of a grid, three times; the lab ends bit for bit as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from convswap.data import load_data
from convswap.lab import Trial, run_grid
from convswap.lab.store import STORE_FILE, Store
from convswap.train import digits_recipe
from convswap.units import list_units

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")

UNITS = ["conv", *[name for name in ("circle_mix", "circle") if name in list_units()][:1]]  # circle_mix draws numbers
EPOCHS = 3
KILLS = 3
SEED = int(os.environ.get("CONVSWAP_KILL_SEED", "0"))  # other moments, for whoever looks for trouble

RUN = "import sys, torch, test_kill; torch.set_num_threads(1); print('ready', flush=True); test_kill.run(sys.argv[1])"


def run(lab: str | Path) -> list[str]:
    """Run the grid and return the states of its trials."""
    fingerprint, recipe = load_data("digits").fingerprint, digits_recipe(epochs=EPOCHS).as_dict()
    trials = [
        Trial(model="cifar_resnet8", unit=unit, data="digits", data_fingerprint=fingerprint, recipe=recipe, seed=0)
        for unit in UNITS
    ]
    return [row.state for row in run_grid(trials, lab, device="cpu", progress=False)]


def epochs_done(lab: Path) -> int:
    """How many epochs were written in all; -1 before the first training has begun."""
    files = list(lab.glob("trials/*/metrics.jsonl"))
    return sum(len(file.read_bytes().splitlines()) for file in files) if files else -1


def kill_after(lab: Path, epochs: int, pause: float, environment: dict[str, str]) -> None:
    """Start the grid in a process, wait until it is past so many epochs in all, a moment longer, and kill it."""
    process = subprocess.Popen([sys.executable, "-c", RUN, str(lab)], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        while epochs_done(lab) < epochs and process.poll() is None:
            time.sleep(0.002)
        time.sleep(pause)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL, "the grid ended before it could be killed"


def tensor_bytes(file: Path) -> dict[str, bytes]:
    """Every tensor of a safetensors file. (The order of the file's own metadata is not reproducible.)"""
    return {name: value.numpy().tobytes() for name, value in load_file(file).items()}


def metrics(lab: Path) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for file in lab.glob("trials/*/metrics.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        found[file.parent.name] = [
            {key: value for key, value in row.items() if key not in ("seconds", "images_per_second")} for row in rows
        ]
    return found


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_three_kills_change_nothing(tmp_path: Path, child_environment: Callable[..., dict[str, str]]) -> None:
    environment = child_environment(Path(__file__).parent, OMP_NUM_THREADS="1")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(whole) == ["finished"] * len(UNITS)
    an_epoch = min(json.loads(line)["seconds"] for f in whole.glob("trials/*/metrics.jsonl") for line in f.open())
    draw = random.Random(SEED)
    total = EPOCHS * len(UNITS) - 1  # nothing is left to kill soon after the last epoch
    for third in range(KILLS):
        # One kill in each third of the run, at any moment of an epoch or of the writing after it.
        epochs = draw.randrange(third * total // KILLS, (third + 1) * total // KILLS)
        kill_after(broken, epochs, draw.random() * an_epoch, environment)
    assert run(broken) == ["finished"] * len(UNITS)

    files = sorted(path.relative_to(whole) for path in whole.glob("trials/*/*"))
    assert files == sorted(path.relative_to(broken) for path in broken.glob("trials/*/*"))
    weights = [file for file in files if file.name == "model.safetensors"]
    assert len(weights) == len(UNITS)
    for file in weights:
        assert tensor_bytes(whole / file) == tensor_bytes(broken / file), file
    assert metrics(whole) == metrics(broken)
    assert all(len(rows) == EPOCHS for rows in metrics(whole).values())
    with Store(whole / STORE_FILE, write=False) as one, Store(broken / STORE_FILE, write=False) as other:
        for row, twin in zip(one.rows(), other.rows(), strict=True):
            assert row.result is not None
            assert twin.result is not None
            for key in ("test_accuracy", "test_loss", "parameters", "macs", "plan"):
                assert row.result[key] == twin.result[key]
