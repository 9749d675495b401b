"""How fast is the dendritic convolution, and how little memory does it take? Native kernels beside their peers.

Peers, in one run and turn by turn: `reference`, the formula as a grouped convolution that materialises (batch, out, in,
H, W); `torch`, the chunked form in plain torch; `plain`, an ordinary convolution of that shape, which computes less.
Correctness first: every path must agree with the reference in float64, in value and gradients, at the size that is
timed. A path that does not gets no time, and the script ends with status 1. Times are the least of all rounds. A
training step is forward and backward with the input's gradient. Memory is the peak of a fresh process
(`convswap.measure.memory`), beyond parameters and input. Each rate is also given as a part of the machine's
multiply-add peak, which is measured in the same run.

    python -m benchmarks.kernels.dendritic_conv [--threads 1 2] [--rounds 10]
        [--shapes "64 at 32"] [--paths avx512 avx2]
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import write_result
from benchmarks.kernels import probes
from convswap.measure.peak import Mode, peak_memory
from convswap.ops.dendritic import dendritic_conv2d, dendritic_conv2d_reference, native
from convswap.ops.native import why_missing
from convswap.units import DendriticConv2d

GOAL_SHAPE, SPEED_GOAL, MEMORY_GOAL = "64 at 32", 8.0, 10.0
LAST = torch.channels_last
SHAPES = {  # batch, in, out, size, kernel, stride, memory format
    GOAL_SHAPE: (64, 64, 64, 32, 3, 1, torch.contiguous_format),
    "64 at 32, channels last": (64, 64, 64, 32, 3, 1, LAST),
    "cifar_resnet20 stage 1": (128, 16, 16, 32, 3, 1, torch.contiguous_format),
    "cifar_resnet20 stage 3": (128, 64, 64, 8, 3, 1, torch.contiguous_format),
    "resnet18 stage 1, batch 1": (1, 64, 64, 56, 3, 1, torch.contiguous_format),
    "resnet18 stage 2, first": (8, 64, 128, 56, 3, 2, torch.contiguous_format),
    "resnet18 stage 3": (8, 256, 256, 14, 3, 1, torch.contiguous_format),
    "resnet18 stage 4": (8, 512, 512, 7, 3, 1, torch.contiguous_format),
    "1x1, 64 at 32": (16, 64, 64, 32, 1, 1, torch.contiguous_format),
}
REFERENCE_MOST = 5 << 28  # bytes of activations; several times this is taken
PEERS = ("reference", "torch", "plain")


class Reference(DendriticConv2d):
    """The unit by its readable formula."""

    def forward(self, input: Tensor) -> Tensor:
        """Materialise everything."""
        _, after = self._margins()
        return dendritic_conv2d_reference(input, self.weight, self.dendrite_bias, self.bias, self.stride, after)


def choose(kind: str) -> None:
    """Make the operator run a path, or plain torch."""
    if kind in native.PATHS or kind == "torch":
        os.environ[native.VARIABLE] = kind


def build(kind: str, name: str) -> tuple[nn.Module, Tensor]:
    """A module and its input. It also chooses the operator's path, because memory is measured in another process."""
    choose(kind)
    batch, inputs, out, size, kernel, stride, layout = SHAPES[name]
    geometry = (inputs, out, kernel, stride, kernel // 2)
    torch.manual_seed(0)
    module: nn.Module
    if kind == "plain":
        module = nn.Conv2d(*geometry)
    else:
        module = (Reference if kind == "reference" else DendriticConv2d)(*geometry, bias_init=0.3)
    return module.to(memory_format=layout), torch.randn(batch, inputs, size, size).to(memory_format=layout)


def check(kind: str, name: str) -> str | None:
    """Compare a path with the reference in float64, two images at the full size. Returns what is wrong, or None."""
    module, x = build(kind, name)
    assert isinstance(module, DendriticConv2d)
    _, after = module._margins()
    inputs = [x[:2], *(p.detach() for p in (module.weight, module.dendrite_bias, module.bias))]
    results = []
    for form, dtype in ((dendritic_conv2d, torch.float32), (dendritic_conv2d_reference, torch.float64)):
        tensors = [t.to(dtype).requires_grad_() for t in inputs]
        y = form(*tensors, module.stride, after)
        torch.manual_seed(1)
        slope = torch.randn(y.shape)
        results.append([y, *torch.autograd.grad(y, tensors, slope.to(dtype))])
    for what, ours, expected in zip(("value", "input", "weight", "biases", "bias"), *results, strict=True):
        error = float(((ours.double() - expected).abs().max() / (1 + expected.abs().max())).detach())
        if not error < 1e-5:
            return f"{what}: off by {error:.1e} of the largest"
    return None


def step_of(kind: str, name: str) -> dict[Mode, Callable[[], None]]:
    """One inference and one training step, ready to be timed."""
    module, x = build(kind, name)
    with torch.no_grad():
        slope = torch.randn_like(module(x[:1])).expand(len(x), -1, -1, -1).contiguous(memory_format=SHAPES[name][-1])
    learned = x.clone().requires_grad_()

    def infer() -> None:
        choose(kind)
        with torch.inference_mode():
            module(x)

    def train() -> None:
        choose(kind)
        module.zero_grad()
        learned.grad = None
        module(learned).backward(slope)

    return {"inference": infer, "training": train}


def times(kinds: list[str], name: str, mode: Mode, rounds: int) -> dict[str, float]:
    """Seconds of each kind, the least of the rounds, turn by turn. A slow kind has fewer rounds."""
    steps = {kind: step_of(kind, name)[mode] for kind in kinds}
    found = dict.fromkeys(kinds, float("inf"))
    for number in range(rounds + 1):  # the first is not counted
        for kind, step in steps.items():
            if number > 2 and kind == "reference" and found[kind] > 2:
                continue
            start = time.perf_counter()
            step()
            if number:
                found[kind] = min(found[kind], time.perf_counter() - start)
    return found


def measure(name: str, paths: list[str], mode: Mode, threads: int, rounds: int, peak: float | None) -> dict[str, Any]:
    """Seconds and bytes of every kind, and the ratios of each path."""
    batch, inputs, out, size, kernel, stride, _ = SHAPES[name]
    materialised = 4 * batch * inputs * out * size * size
    kinds = [*paths, *(kind for kind in PEERS if kind != "reference" or materialised <= REFERENCE_MOST)]
    torch.set_num_threads(threads)
    seconds = times(kinds, name, mode, rounds)
    memory = {
        kind: peak_memory(functools.partial(build, kind, name), mode, threads=threads, input_gradient=True)
        for kind in kinds
    }
    after = (size + 2 * (kernel // 2) - kernel) // stride + 1
    work = batch * inputs * out * after**2 * kernel**2 * (3 if mode == "training" else 1)
    rows = {}
    for path in paths:
        row = {f"faster_than_{kind}": seconds[kind] / seconds[path] for kind in kinds if kind not in paths}
        row |= {f"memory_of_{kind}": memory[kind] / max(1, memory[path]) for kind in kinds if kind not in paths}
        row["multiply_adds_per_second"] = work / seconds[path]
        if peak:
            row["part_of_peak"] = work / seconds[path] / (peak * threads)
        rows[path] = row
    return {"seconds": seconds, "bytes": memory, "paths": rows}


def show(name: str, mode: str, threads: int, found: dict[str, Any]) -> None:
    for path, row in found["paths"].items():
        faster = ", ".join(f"{value:.1f}x {key[12:]}" for key, value in row.items() if key.startswith("faster"))
        less = ", ".join(f"{value:.1f}x {key[10:]}" for key, value in row.items() if key.startswith("memory"))
        rate = f"{row['multiply_adds_per_second'] / 1e9:.0f} G/s"
        part = f" = {row['part_of_peak']:.0%} of the peak" if "part_of_peak" in row else ""
        head = f"{name:26} {mode:9} {threads} thread{'s' * (threads > 1)} {path:8}"
        print(f"{head} {found['seconds'][path] * 1e3:8.2f} ms, {rate}{part}; speed {faster}; memory {less}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--paths", nargs="+", choices=list(native.PATHS), default=None)
    options = parser.parse_args()
    if (best := native.path()) is None:
        sys.exit(f"no native kernels to measure: {why_missing() or native.VARIABLE + ' asks for torch'}")
    paths = options.paths or [best]
    peak = probes.peaks(200).get("fma")
    print(f"multiply-add peak of one core: {peak / 1e9:.0f} G/s" if peak else "no multiply-add peak on this machine")
    results: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for name in options.shapes:
        batch, inputs, out, size, kernel, stride, layout = SHAPES[name]
        shape = {"batch": batch, "in": inputs, "out": out, "size": size, "kernel": kernel, "stride": stride}
        shape["layout"] = str(layout)
        red = {path: words for path in [*paths, "torch"] if (words := check(path, name))}
        wrong |= {f"{name}, {path}": words for path, words in red.items()}
        results[name] = {"shape": shape, "wrong": red}
        right = [path for path in paths if path not in red]
        for mode in ("inference", "training") if right and "torch" not in red else ():
            for threads in options.threads:
                found = measure(name, right, mode, threads, options.rounds, peak)
                results[name].setdefault(mode, {})[str(threads)] = found
                show(name, mode, threads, found)
    for place, words in wrong.items():
        print(f"WRONG, so not timed: {place}: {words}")
    goal = {"shape": GOAL_SHAPE, "faster_than_reference": SPEED_GOAL, "memory_of_reference": MEMORY_GOAL}
    goal["met"] = {
        threads: found["paths"][best]["faster_than_reference"] >= SPEED_GOAL
        and found["paths"][best]["memory_of_reference"] >= MEMORY_GOAL
        for threads, found in results.get(GOAL_SHAPE, {}).get("training", {}).items()
        if best in found["paths"]
    }
    payload = {"goal": goal, "paths": paths, "fma_peak_of_one_core": peak, "wrong": wrong, "results": results}
    write_result("kernels/dendritic_conv", payload | {"rounds": options.rounds})
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
