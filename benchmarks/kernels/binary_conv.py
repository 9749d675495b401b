"""How fast is the binary convolution? The four 3x3 layers of ResNet-18, and the whole network, beside their peers.

Peers, in one run and turn by turn: `fp32`, oneDNN with the weight reordered beforehand and channels last (the strongest
fp32 in torch); `bf16`, the same in bfloat16; and `int8`, torch's quantised convolution on oneDNN. Our paths are forced
in turn. They start from bits, or `with packing` from float32. `expanded once` keeps int8 weights instead of expanding
the bits at every call (paths that multiply). All are called as a user calls them, by torch's operators.

Correctness first: a path must equal the reference bit for bit at the size that is timed, and oneDNN must be close to
it. A path that does not gets no time, and the script ends with status 1. Repetitions are interleaved. The least and the
median are given; ratios are of the least. Each rate is also given as a part of the peak of one core of this machine
with those instructions (`benchmarks.kernels.probes`, measured in the same run), times the threads.

    python -m benchmarks.kernels.binary_conv [--threads 1 2] [--batches 1 16] [--repetitions 100]
        [--sections layers network]
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import write_result
from benchmarks.kernels import probes
from convswap.ops.binary_conv import binary_conv2d, binary_conv2d_reference, binary_pack, pack_weight
from convswap.ops.binary_conv.native_calls import VARIABLE, expand, path_names, plan
from convswap.ops.native import why_missing

SHAPES = {"64@56": (64, 56), "128@28": (128, 28), "256@14": (256, 14), "512@7": (512, 7)}
#: path -> how many times fp32 at 256@14, batch 1, one thread: from bits, with packing
GOALS = {"amx": (16.0, 12.0), "vpopcntdq": (10.0, 8.0)}
GOAL_SHAPE = "256@14"
#: which probe measures the instructions that limit a path or peer
LIMITS = {"fp32": "fma", "vnni": "vnni", "vpopcntdq": "popcount", "amx": "amx"}
WHERE = ((1, 1), (1, 1, 1, 1), (1, 1), 1)  # stride, padding, dilation, groups

BURST = 4

Step = Callable[[], Tensor]


class Layer:
    """One 3x3 layer: its operands, and a step for each way to compute it."""

    def __init__(self, name: str, batch: int) -> None:
        channels, size = SHAPES[name]
        torch.manual_seed(0)
        self.x = torch.randn(batch, channels, size, size).to(memory_format=torch.channels_last)
        self.latent = torch.randn(channels, channels, 3, 3)
        self.scale, self.bias = torch.rand(channels) + 0.5, torch.randn(channels)
        self.channels, self.macs = channels, batch * channels**2 * 9 * size**2
        self.packed = pack_weight(self.latent)
        self.signs = torch.where(self.x >= 0, 1.0, -1.0)
        self.float_weight = torch.where(self.latent >= 0, 1.0, -1.0) * self.scale[:, None, None, None]

    @functools.cached_property
    def reference(self) -> Tensor:
        """The result that every path must give."""
        return binary_conv2d_reference(self.x, self.latent, self.scale, self.bias, None, *WHERE)

    def onednn(self, dtype: torch.dtype) -> Step:
        """oneDNN's convolution of the signs, weight reordered once."""
        x, bias = self.signs.to(dtype), self.bias.to(dtype)
        weight = torch.ops.mkldnn._reorder_convolution_weight(
            self.float_weight.to(dtype).to(memory_format=torch.channels_last), [1, 1], [1, 1], [1, 1], 1, list(x.shape)
        )
        call = torch.ops.mkldnn._convolution_pointwise.default
        return lambda: call(x, weight, bias, [1, 1], [1, 1], [1, 1], 1, "none", [], "")

    def int8(self) -> Step:
        """torch's quantised convolution (oneDNN): 8-bit activations, weights and output."""
        torch.backends.quantized.engine = "onednn"
        x = torch.quantize_per_tensor(self.signs, 1 / 64, 64, torch.quint8)
        signs = torch.where(self.latent >= 0, 1.0, -1.0)
        weight = torch.quantize_per_channel(signs, torch.full((self.channels,), 1 / 64),
                                            torch.zeros(self.channels, dtype=torch.int64), 0, torch.qint8)  # fmt: skip
        packed = torch.ops.quantized.conv2d_prepack(weight, self.bias, [1, 1], [1, 1], [1, 1], 1)
        return lambda: torch.ops.quantized.conv2d(x, packed, 4.0, 128)

    def ours(self, path: str, packing: bool, once: bool) -> Step:
        """A path of the binary convolution. The environment variable must name it when it is called."""
        words = binary_pack(self.x, None, None, 1)
        with forced(path):
            panels = expand(self.plan(words), self.packed) if once else None
        call = functools.partial(binary_conv2d, weight=self.packed, scale=self.scale, bias=self.bias, map=None,
                                 panels=panels, in_channels=self.channels, out_channels=self.channels,
                                 stride=WHERE[0], padding=WHERE[1], dilation=WHERE[2], groups=1,
                                 relu=False)  # fmt: skip
        return (lambda: call(binary_pack(self.x, None, None, 1))) if packing else (lambda: call(words))

    def plan(self, words: Tensor) -> Any:
        """The operator's present plan for this layer."""
        return plan(words.shape, self.packed.shape, self.channels, self.channels, *WHERE)


class forced:
    """Make the operator take a path, inside a with block."""

    def __init__(self, path: str | None) -> None:
        self.path = path

    def __enter__(self) -> None:
        if self.path is not None:
            os.environ[VARIABLE] = self.path

    def __exit__(self, *error: object) -> None:
        os.environ.pop(VARIABLE, None)


def expands(path: str) -> bool:
    """Whether a path multiplies int8 weights, which can be kept."""
    layer = Layer("512@7", 1)
    with forced(path):
        return expand(layer.plan(binary_pack(layer.x, None, None, 1)), layer.packed) is not None


def steps_of(layer: Layer, paths: Iterable[str]) -> tuple[dict[str, tuple[str | None, Step]], dict[str, str]]:
    """Name -> (path to force, step), and the peers that cannot be measured here, with the reason."""
    steps: dict[str, tuple[str | None, Step]] = {"fp32": (None, layer.onednn(torch.float32))}
    missing = {}
    for name, make in (("bf16", lambda: layer.onednn(torch.bfloat16)), ("int8", layer.int8)):
        try:
            step = make()
            step()
            steps[name] = (None, step)
        except (RuntimeError, AttributeError, NotImplementedError) as error:  # this torch or processor lacks it
            missing[name] = str(error).splitlines()[0]
    for path in paths:
        for once in (False, True) if expands(path) else (False,):
            for packing in (False, True):
                name = path + (", expanded once" if once else "") + (", with packing" if packing else "")
                steps[name] = (path, layer.ours(path, packing, once))
    return steps, missing


def wrong(layer: Layer, name: str, path: str | None, step: Step) -> str | None:
    """What is wrong with a result, or None."""
    with forced(path):
        y = step()
    if path is not None:
        return None if torch.equal(y, layer.reference) else "differs from the reference"
    if name == "int8":
        return None  # its output is rounded to 8 bits by its own scale: a different function, shown for its time
    error = float((y.float() - layer.reference).abs().max() / layer.reference.abs().max())
    return None if error < (1e-5 if name == "fp32" else 2e-2) else f"off by {error:.1e} of the largest"


def interleaved(steps: dict[str, tuple[str | None, Step]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every repetition. In every round each step runs once to warm up the caches and memory that its
    neighbours took, and is then timed `BURST` times."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (path, step) in steps.items():
            with forced(path):
                step()
                for _ in range(BURST):
                    start = time.perf_counter()
                    step()
                    found[name].append(time.perf_counter() - start)
    return found


def limit_of(name: str, peaks: dict[str, float], threads: int) -> float | None:
    """Multiply-accumulates a second that the instructions of a path or peer allow."""
    peak = peaks.get(LIMITS.get(name.partition(",")[0], ""))
    return peak * threads if peak else None


def measure(
    name: str, batch: int, threads: int, paths: list[str], rounds: int, peaks: dict[str, float]
) -> dict[str, Any]:
    """Times and ratios of one layer."""
    torch.set_num_threads(threads)
    layer = Layer(name, batch)
    with torch.inference_mode():
        steps, missing = steps_of(layer, paths)
        red = {who: reason for who, (path, step) in steps.items() if (reason := wrong(layer, who, path, step))}
        for who in red:
            del steps[who]
        seconds = interleaved(steps, rounds) if "fp32" in steps else {}
    rows = {}
    for who, times in seconds.items():
        least, limit = min(times), limit_of(who, peaks, threads)
        rows[who] = {
            "least_us": least * 1e6,
            "median_us": statistics.median(times) * 1e6,
            "times_fp32": min(seconds["fp32"]) / least,
            "median_times_fp32": statistics.median(seconds["fp32"]) / statistics.median(times),
            "gmacs": layer.macs / least / 1e9,
            "of_limit": layer.macs / least / limit if limit else None,
        }
    os.environ.pop(VARIABLE, None)
    default = layer.plan(binary_pack(layer.x, None, None, 1)).name
    print(f"\n{name}, batch {batch}, {threads} thread{'s' * (threads > 1)} ({layer.macs / 1e6:.0f} MMAC); "
          f"taken by itself: {default}")  # fmt: skip
    for who, row in rows.items():
        part = "" if row["of_limit"] is None else f"{row['of_limit']:5.0%} of the limit"
        print(f"  {who:34} {row['least_us']:9.1f} us (median {row['median_us']:9.1f})  {row['times_fp32']:5.1f}x fp32"
              f"  {row['gmacs']:7.0f} GMAC/s {part}")  # fmt: skip
    for who, reason in {**missing, **red}.items():
        print(f"  {who:34} {'RED: ' if who in red else 'not here: '}{reason}")
    return {"shape": name, "batch": batch, "threads": threads, "macs": layer.macs, "default_path": default,
            "rows": rows, "missing": missing, "red": red}  # fmt: skip


def judge(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The goals, each met, missed or not measured on this machine."""
    verdicts = []
    for path, goals in GOALS.items():
        for goal, suffix in zip(goals, ("", ", with packing"), strict=True):
            best = None
            for result in results:
                if (result["shape"], result["batch"], result["threads"]) == (GOAL_SHAPE, 1, 1):
                    found = [
                        row["times_fp32"]
                        for who, row in result["rows"].items()
                        if who in (path + suffix, f"{path}, expanded once{suffix}")
                    ]
                    best = max(found, default=None)
            verdicts.append({"goal": f"{path}{suffix} at {GOAL_SHAPE}: {goal:g}x", "found": best,
                             "met": None if best is None else best >= goal})  # fmt: skip
    slowest: tuple[float, str] | None = None
    for result in results:
        for suffix in ("", ", with packing"):
            row = result["rows"].get(result["default_path"] + suffix)
            if row is not None:
                where = f"{result['shape']}, batch {result['batch']}, {result['threads']} threads{suffix}"
                slowest = min(slowest or (float("inf"), ""), (row["times_fp32"], where))
    if slowest:
        verdicts.append({"goal": "the path taken is never slower than fp32", "found": slowest[0], "where": slowest[1],
                         "met": slowest[0] >= 1})  # fmt: skip
    return verdicts


def main() -> int:
    """Measure, print, write; status 1 after a red check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--paths", nargs="+", default=None, help="default: all that this machine runs")
    parser.add_argument("--repetitions", type=int, default=100, help="of a layer at batch 1; fewer at larger batches")
    parser.add_argument("--sections", nargs="+", choices=("layers", "network"), default=["layers", "network"])
    parser.add_argument("--name", default="binary_conv", help="of the result file; '' writes none")
    given = parser.parse_args()
    paths = given.paths or path_names()
    if not paths:
        print(f"no native library: {why_missing()}", file=sys.stderr)
        return 1
    peaks = probes.peaks()
    print(probes.describe(peaks))
    payload: dict[str, Any] = {"peaks_of_one_core": peaks, "paths": paths}
    red = False
    if "layers" in given.sections:
        payload["layers"] = [
            measure(name, batch, threads, paths, max(3, given.repetitions // batch // BURST), peaks)
            for threads in given.threads
            for batch in given.batches
            for name in given.shapes
        ]
        red = any(result["red"] for result in payload["layers"])
        payload["goals"] = judge(payload["layers"])
        for verdict in payload["goals"]:
            state = {True: "met", False: "MISSED", None: "not measured: this processor lacks the instructions"}
            print(f"{verdict['goal']}: {state[verdict['met']]}"
                  + (f" ({verdict['found']:.1f}x{', ' + verdict['where'] if 'where' in verdict else ''})"
                     if verdict["found"] else ""))  # fmt: skip
    if "network" in given.sections:
        from benchmarks.kernels.binary_network import measure_network

        payload["network"] = [measure_network(threads, max(20, given.repetitions // 3)) for threads in given.threads]
        red = red or any(result["red"] for result in payload["network"])
    if given.name:
        write_result(given.name, payload)
    return int(red)


if __name__ == "__main__":
    raise SystemExit(main())
