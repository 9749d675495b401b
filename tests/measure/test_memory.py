"""Peak memory: known temporaries are seen, what came before is not, and failures come back."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convswap.errors import UsageError
from convswap.measure.memory import memory, peak_memory

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
