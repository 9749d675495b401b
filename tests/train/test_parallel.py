"""Two processes on one CPU, joined by gloo as GPUs are by nccl."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convswap.errors import UsageError
from convswap.train import fit
from convswap.train.parallel import start_fabric

from .conftest import make_data, make_model, make_recipe


def test_two_processes_train_one_model(tmp_path) -> None:
    script = Path(__file__).with_name("two_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", str(script), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=170, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    for key in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
        assert first["history"][-1][key] == second["history"][-1][key]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    one, other = (torch.load(tmp_path / f"bounded{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    errors = [(tmp_path / f"error{rank}.txt").read_text() for rank in range(2)]
    assert errors[0] == errors[1]
    assert "epoch 1 of 2, step 1 of 3" in errors[0]

    # One process goes on from what two have saved.
    model = make_model(seed=7)
    result = fit(
        model, make_data(), make_recipe(epochs=2), seed=0, directory=tmp_path, progress=False, device="cpu"
    )  # fmt: skip
    assert result.resumed_after == 2
    assert all(torch.equal(value, first["model"][name]) for name, value in model.state_dict().items())
    assert result.test_accuracy == first["history"][-1]["test_accuracy"]


def test_one_device_and_several_contradict() -> None:
    with pytest.raises(UsageError, match="drop one"):
        start_fabric(torch.device("cpu", 0), 2, "fp32")
