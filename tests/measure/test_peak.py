"""Peak memory: known temporaries are seen, what came before is not, and failures come back."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convswap.errors import ConvswapError, UsageError
from convswap.measure.peak import memory, peak_memory

MB = 1 << 20


class Hungry(nn.Module):
    """Takes a temporary of so many megabytes per example, and keeps it for the backward pass if asked."""

    def __init__(self, megabytes: int, keep: bool) -> None:
        super().__init__()
        self.megabytes, self.keep = megabytes, keep
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        taken = torch.ones(len(x), self.megabytes * MB // 4)
        if self.keep:
            return (self.scale * taken).square().sum() + 0 * x  # two more of that size, one saved
        return x + taken[0, 0] * self.scale


def build(megabytes: int, keep: bool = False, waste: int = 0) -> tuple[nn.Module, Tensor]:
    torch.ones(waste * MB // 4)  # freed before the pass
    return Hungry(megabytes, keep), torch.zeros(4, 3)


def fail() -> tuple[nn.Module, Tensor]:
    raise RuntimeError("no such model")


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_known_temporary_is_seen(mode: Any) -> None:
    found = peak_memory(functools.partial(build, 50), mode)
    assert abs(found - 200 * MB) < 40 * MB


def test_what_building_took_and_the_caller_holds_is_not_counted() -> None:
    held = torch.ones(300 * MB // 4)
    found = peak_memory(functools.partial(build, 50, waste=300))
    assert abs(found - 200 * MB) < 40 * MB
    assert len(held)


def test_training_holds_what_the_backward_pass_needs() -> None:
    inference, training = (peak_memory(functools.partial(build, 25, True), mode) for mode in ("inference", "training"))
    assert abs(inference - 300 * MB) < 60 * MB
    assert training > inference + 80 * MB


def test_errors_of_the_other_process_come_back() -> None:
    with pytest.raises(RuntimeError, match="no such model"):
        peak_memory(fail)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(UsageError, match="mode='sleep' is not allowed; choose one of 'inference', 'training'"):
        peak_memory(fail, "sleep")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="threads=0"):
        peak_memory(fail, threads=0)


def test_a_model_that_there_is_already() -> None:
    found = memory(Hungry(25, True), torch.zeros(4, 3))
    assert abs(found.inference - 300 * MB) < 60 * MB
    assert found.training > found.inference + 80 * MB


def test_a_model_that_cannot_be_sent_is_named() -> None:
    model = nn.Identity()
    model.function = lambda x: x  # type: ignore[assignment]
    with pytest.raises(UsageError, match="model=Identity cannot be sent to another process"):
        memory(model, torch.zeros(1))


SCRIPT = """
import torch
from torch import nn
from convswap.measure import memory

class Own(nn.Module):
    def forward(self, x):
        return x + torch.ones({values}).sum()

{guard}print(memory(Own(), torch.zeros(2, 3)).inference)
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300, check=False)


def test_a_model_of_a_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(values=50 * MB // 4, guard="if __name__ == '__main__': "))
    found = run(str(script))
    assert found.returncode == 0, found.stderr
    assert abs(int(found.stdout) - 50 * MB) < 20 * MB


@pytest.mark.parametrize("way", ["unguarded script", "command"])
def test_what_another_process_cannot_find_is_said(way: str, tmp_path: Path) -> None:
    text = SCRIPT.format(values=8, guard="")
    script = tmp_path / "script.py"
    script.write_text(text)
    found = run(*(["-c", text] if way == "command" else [str(script)]))
    assert found.returncode == 1
    last = found.stderr.strip().splitlines()[-1]
    if way == "command":
        assert "UsageError: the model cannot be found from another process" in last
        assert "not in a notebook" in last
    else:
        assert "ConvswapError: the process that measures memory ended before it answered" in last
        assert "if __name__ == '__main__':" in last


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def meta() -> tuple[nn.Module, Tensor]:
    return nn.Linear(3, 3, device="meta"), torch.zeros(1, 3)


def pair() -> tuple[nn.Module, Tensor]:
    return Pair(), torch.zeros(1, 3)


def nothing_learned() -> tuple[nn.Module, Tensor]:
    return nn.ReLU(), torch.zeros(2, 3)


def test_what_cannot_be_measured_is_named() -> None:
    with pytest.raises(UsageError, match="meta device has no memory"):
        peak_memory(meta)
    with pytest.raises(UsageError, match="model returned tuple"):
        peak_memory(pair, "training")
    with pytest.raises(UsageError, match="example_input=shape \\(0, 3\\)"):
        memory(nn.Identity(), torch.zeros(0, 3))
    with pytest.raises(UsageError, match="example_input=<class 'list'>"):
        memory(nn.Identity(), [1.0])  # type: ignore[arg-type]
    assert peak_memory(nothing_learned, "training") < 20 * MB


def leave() -> tuple[nn.Module, Tensor]:
    sys.modules["os"]._exit(3)


def test_a_process_that_dies_is_told_of() -> None:
    with pytest.raises(ConvswapError, match="out of memory"):
        peak_memory(leave)
