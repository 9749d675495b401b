"""Two processes on one CPU, joined by gloo as GPUs are by nccl."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convswap.errors import UsageError
from convswap.train import fit
from convswap.train.parallel import start_fabric

from .conftest import make_data, make_model, make_recipe

# Two processes that each import torch and train five times need a minute on an idle machine, and several on a busy one.
LIMIT_S = 900


def run_two(folder: Path) -> None:
    """Run two_processes.py under torchrun; whatever happens, no process of it is left."""
    script = Path(__file__).with_name("two_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", "--rdzv_conf=keep_alive_interval=60"]
    command += [str(script), str(folder)]  # by default a launcher that gets no turn for 15 s is taken for dead
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(_paths())},
        start_new_session=True,  # the launcher's end alone would leave its processes behind
    )
    try:
        output, _ = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"not done after {LIMIT_S} s: {output[-3000:]}")
    assert process.returncode == 0, output[-3000:]


def _paths() -> list[str]:
    given = filter(None, [os.environ.get("PYTHONPATH")])
    return [str(Path(__file__).parents[1]), *given]


def test_two_processes_train_one_model(tmp_path) -> None:
    run_two(tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    for key in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
        assert first["history"][-1][key] == second["history"][-1][key]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    one, other = (torch.load(tmp_path / f"bounded{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    for name in ("jocor", "mutual_learning", "self_distillation-mixup-cutout4", "augmix"):
        one, other = (torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True) for rank in range(2))
        assert all(torch.equal(value, other[key]) for key, value in one.items()), name
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
