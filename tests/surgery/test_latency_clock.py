"""Latency by a clock that only the passes move."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from convswap.surgery import latency


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Takes(nn.Module):
    """A pass that takes so many milliseconds."""

    def __init__(self, clock: Clock, ms: float) -> None:
        super().__init__()
        self.clock, self.ms, self.calls = clock, ms, 0

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += self.ms / 1e3
        self.calls += 1
        return x


def test_a_pass_takes_what_it_takes_however_many_make_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(latency, "perf_counter", clock)
    models = {str(ms): Takes(clock, ms) for ms in (0.1, 1.0, 5.0)}
    found = latency.measure_latency(models, torch.zeros(1), repeats=4, warmup=2)
    for name, taken in found.items():
        assert taken.median_ms == pytest.approx(float(name))
        assert taken.repeats == 4
    # two to warm up, one to see how long it takes, then four blocks of at least 2 ms
    assert [model.calls for model in models.values()] == [3 + 4 * calls for calls in (20, 2, 1)]
