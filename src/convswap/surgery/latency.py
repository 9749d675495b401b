"""How long a forward pass takes, for several models side by side.

The repetitions are interleaved (every model once, then again), so a machine that warms up, throttles or is
disturbed for a moment disturbs all models equally. The order is drawn anew each time, so no model always follows the
same one.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError, check_whole
from .inputs import ExampleInput, Inputs
from .modes import evaluating

# One timed block lasts at least this long. A shorter block would measure the clock and the scheduler.
_BLOCK_MS = 2.0
_MOST_CALLS = 100
# Beyond these a machine is too noisy.
WIDEST_SPREAD, _SLOWER, _BUSY = 0.2, 1.5, 0.8


def spread_too_wide(median_ms: float, q1_ms: float, q3_ms: float) -> bool:
    """Whether the quartiles are so far apart that the median says little."""
    return q3_ms - q1_ms > WIDEST_SPREAD * median_ms


@dataclass(frozen=True)
class Latency:
    """Milliseconds per forward pass: the median and quartiles of `repeats` timed blocks.

    Attributes:
        median_ms, q1_ms, q3_ms: per pass.
        repeats: blocks.
        threads: torch's intra-operator threads.
        fastest_ms: per pass of the fastest block, where it is known.
        busy: processor time over elapsed time of all blocks, where it is known. Far below 1, other programs had the
            processor.
    """

    median_ms: float
    q1_ms: float
    q3_ms: float
    repeats: int
    threads: int
    fastest_ms: float | None = None
    busy: float | None = None

    @property
    def noise(self) -> str | None:
        """Why the machine was too noisy for the median to be trusted, or None.

        Steady load leaves the quartiles close together, so the quartiles alone do not show it.
        """
        if spread_too_wide(self.median_ms, self.q1_ms, self.q3_ms):
            spread = (self.q3_ms - self.q1_ms) / self.median_ms
            return f"the middle half of {self.repeats} repetitions spreads over {spread:.0%} of the median"
        if self.fastest_ms is not None and self.median_ms > _SLOWER * self.fastest_ms:
            times = self.median_ms / self.fastest_ms
            return f"the median of {self.repeats} repetitions is {times:.1f} times the fastest"
        if self.busy is not None and self.busy < _BUSY:
            return f"this program had a processor for only {self.busy:.0%} of the time"
        return None

    @property
    def noisy(self) -> bool:
        """Whether the machine was too noisy, see `noise`."""
        return self.noise is not None

    def as_dict(self) -> dict[str, Any]:
        """The fields and `noisy`, for JSON."""
        return asdict(self) | {"noisy": self.noisy}


def measure_latency(
    models: Mapping[str, nn.Module],
    example_input: ExampleInput,
    *,
    threads: int = 1,
    repeats: int = 30,
    warmup: int = 5,
) -> dict[str, Latency]:
    """Time the forward pass of each model on the example, in eval and inference mode.

    Models and example are taken as they are: device, precision and memory format (channels_last) are the
    caller's choice. Modes and torch's thread count are restored. Run this alone on the machine: a training run
    beside it makes the numbers meaningless, which `Latency.noisy` often shows.

    Args:
        models: by name; at least one.
        example_input: the batch that is passed, (N, C, H, W), or another form that the models take
            (`convswap.surgery.inputs`).
        threads: torch's intra-operator threads while measuring.
        repeats: timed blocks per model, at least 3. A block repeats a fast pass until it lasts 2 ms.
        warmup: untimed passes per model, at least 1.
    """
    if not models:
        raise UsageError("models={} has nothing to measure; give at least one model by name")
    for name, value, least in (("threads", threads, 1), ("repeats", repeats, 3), ("warmup", warmup, 1)):
        check_whole(name, value, least)
    inputs = {name: Inputs.of(example_input, model) for name, model in models.items()}
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with evaluating(*models.values()), torch.inference_mode():
            times, busy = _interleaved(models, inputs, repeats, warmup)
    finally:
        torch.set_num_threads(threads_before)
    return {name: _summary(values, threads, busy[name]) for name, values in times.items()}


def _interleaved(
    models: Mapping[str, nn.Module], inputs: Mapping[str, Inputs], repeats: int, warmup: int
) -> tuple[dict[str, list[float]], dict[str, float | None]]:
    """Milliseconds per pass of each block; on the CPU, processor time over elapsed time of all of them."""
    calls: dict[str, int] = {}
    for name, model in models.items():
        _block_ms(model, inputs[name], warmup)
        calls[name] = min(_MOST_CALLS, max(1, math.ceil(_BLOCK_MS / max(_block_ms(model, inputs[name], 1), 1e-6))))
    names = list(models)
    times: dict[str, list[float]] = {name: [] for name in names}
    worked, elapsed = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    order = random.Random(0)  # drawn anew each time: in a fixed order a model always finds the same other one's cache
    for _ in range(repeats):
        for name in order.sample(names, len(names)):
            before = process_time()
            times[name].append(_block_ms(models[name], inputs[name], calls[name]))
            worked[name] += process_time() - before
            elapsed[name] += times[name][-1] * calls[name] / 1e3
    on_cpu = all(own.first.device.type == "cpu" for own in inputs.values())
    return times, {name: worked[name] / max(elapsed[name], 1e-9) if on_cpu else None for name in names}


def _block_ms(model: nn.Module, inputs: Inputs, calls: int) -> float:
    """Milliseconds per pass over a block of passes."""
    _wait(inputs.first)
    start = perf_counter()
    for _ in range(calls):
        model(*inputs.args, **inputs.kwargs)
    _wait(inputs.first)
    return (perf_counter() - start) * 1e3 / calls


def _wait(example: Tensor) -> None:
    # GPU calls return before the work is done.
    if example.is_cuda:
        torch.cuda.synchronize(example.device)


def _summary(values: list[float], threads: int, busy: float | None) -> Latency:
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return Latency(median, q1, q3, len(values), threads, min(values), busy)
