"""How long a forward pass takes, for several models side by side.

The repetitions are interleaved (every model once, then again), so a machine that warms up, throttles or is
disturbed for a moment disturbs all models alike; the order is drawn anew each time, so no model always follows the
same one.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..surgery.modes import evaluating

# One timed block lasts at least this long: below it, the clock and the scheduler are what is measured.
_BLOCK_MS = 2.0
_MOST_CALLS = 100


@dataclass(frozen=True)
class Latency:
    """Milliseconds per forward pass: the median and quartiles of `repeats` timed blocks."""

    median_ms: float
    q1_ms: float
    q3_ms: float
    repeats: int
    threads: int

    @property
    def noisy(self) -> bool:
        """Whether the middle half of the repetitions spreads over more than a fifth of the median."""
        return self.q3_ms - self.q1_ms > 0.2 * self.median_ms

    def as_dict(self) -> dict[str, Any]:
        """The fields and `noisy`, for JSON."""
        return asdict(self) | {"noisy": self.noisy}


def measure_latency(
    models: Mapping[str, nn.Module],
    example_input: Tensor,
    *,
    threads: int = 1,
    repeats: int = 30,
    warmup: int = 5,
) -> dict[str, Latency]:
    """Time the forward pass of each model on the example, in eval and inference mode.

    Models and example are taken as they are: device, precision and memory format (channels_last) are the
    caller's choice. Modes and torch's thread count are put back. Run it alone on the machine: a training run
    beside it makes the numbers meaningless, which `Latency.noisy` then often shows.

    Args:
        models: by name; at least one.
        example_input: the batch that is passed, (N, C, H, W).
        threads: torch's intra-operator threads while measuring.
        repeats: timed blocks per model, at least 3. A block repeats a fast pass until it lasts 2 ms.
        warmup: untimed passes per model, at least 1.
    """
    if not models:
        raise UsageError("models={} has nothing to measure; give at least one model by name")
    for name, value, least in (("threads", threads, 1), ("repeats", repeats, 3), ("warmup", warmup, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{name}={value!r} is not allowed; give a whole number, {least} or more")
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with evaluating(*models.values()), torch.inference_mode():
            times = _interleaved(models, example_input, repeats, warmup)
    finally:
        torch.set_num_threads(threads_before)
    return {name: _summary(values, threads) for name, values in times.items()}


def _interleaved(models: Mapping[str, nn.Module], example: Tensor, repeats: int, warmup: int) -> dict[str, list[float]]:
    calls: dict[str, int] = {}
    for name, model in models.items():
        _block_ms(model, example, warmup)
        calls[name] = min(_MOST_CALLS, max(1, math.ceil(_BLOCK_MS / max(_block_ms(model, example, 1), 1e-6))))
    names = list(models)
    times: dict[str, list[float]] = {name: [] for name in names}
    order = random.Random(0)  # drawn anew each time: in a fixed round a model always finds the same other's cache
    for _ in range(repeats):
        for name in order.sample(names, len(names)):
            times[name].append(_block_ms(models[name], example, calls[name]))
    return times


def _block_ms(model: nn.Module, example: Tensor, calls: int) -> float:
    """Milliseconds per pass over a block of passes."""
    _wait(example)
    start = perf_counter()
    for _ in range(calls):
        model(example)
    _wait(example)
    return (perf_counter() - start) * 1e3 / calls


def _wait(example: Tensor) -> None:
    # GPU calls return before the work is done.
    if example.is_cuda:
        torch.cuda.synchronize(example.device)


def _summary(values: list[float], threads: int) -> Latency:
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return Latency(median, q1, q3, len(values), threads)
