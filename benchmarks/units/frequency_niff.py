"""Is the frequency filter quicker than its authors' form, and from which kernel size than a depthwise convolution?

1. `niff` beside its straightforward form (`benchmarks/peers/niff.py`: full complex transforms, the spectrum rebuilt in
   each call) with the same parameters, taking turns, at 32, 56 and 224 px: a training step, and inference with the
   unit's stored spectrum. Correctness first: outputs and gradients agree in float64, else there is no figure.
2. The crossover: the smallest odd kernel whose depthwise convolution takes longer than the depthwise frequency filter,
   whose own time does not depend on a kernel size; channels last and contiguous, the convolution in its quicker one.

Maps are contiguous in 1. Goals: at least 1.5 times as fast in training, 2 times in inference.

    python -m benchmarks.units.frequency --sections niff
"""

from __future__ import annotations

import argparse
import copy
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.niff import Frequency
from benchmarks.units.layers import Settings, inference, ratio, times, training_step
from convswap.units.niff.niff import NIFFConv2d

SHAPES = ((32, 64, 16), (56, 64, 8), (224, 32, 2))  # side, channels, batch
QUICK_SHAPES = ((6, 4, 2),)
KERNELS = (3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 25, 31)
QUICK_KERNELS = (3, 5)
FORMS = ("depthwise", "split")
TOLERANCE = 1e-9
GOALS = {"training": 1.5, "inference": 2.0}


def build(form: str, channels: int) -> NIFFConv2d:
    """The unit that replaces a depthwise or a dense 3x3 convolution."""
    torch.manual_seed(0)
    groups = channels if form == "depthwise" else 1
    return NIFFConv2d(channels, channels, 3, padding=1, groups=groups, bias=False)


def largest_difference(unit: nn.Module, peer: nn.Module, x: Tensor) -> float:
    """The largest difference of outputs and gradients (map, parameters) in float64, each relative to its largest."""
    found = []
    for module in (unit, peer):
        exact = copy.deepcopy(module).double().train()
        image = x.double().requires_grad_()
        output = exact(image)
        parameters = {id(p): p for p in exact.parameters()}
        found.append([output, *torch.autograd.grad(output.square().sum(), (image, *parameters.values()))])
    ours, theirs = ([value.flatten().detach() for value in values] for values in found)
    assert [v.shape for v in ours] == [v.shape for v in theirs]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


def compare(form: str, shape: tuple[int, int, int], settings: Settings) -> dict[str, Any]:
    """One row: how many times as long the straightforward form takes.

    Raises:
        RuntimeError: the two do not agree: then there is no figure.
    """
    side, channels, batch = shape
    unit = build(form, channels)
    peer = Frequency(copy.deepcopy(unit))
    x = torch.randn(batch, channels, side, side)
    difference = largest_difference(unit, peer, x[:2])
    if not difference <= TOLERANCE:
        raise RuntimeError(f"niff ({form}) at {side} px differs from the straightforward form by {difference:.1e}")
    row: dict[str, Any] = {"form": form, "side": side, "channels": channels, "batch": batch, "difference": difference}
    for kind, make in (("training", training_step), ("inference", inference)):
        steps = {name: make(module, x, settings) for name, module in (("unit", unit), ("peer", peer), ("again", unit))}
        taken = times(steps, settings)
        speed = ratio(taken["peer"], taken["unit"])
        row[kind] = {
            "unit_ms": 1e3 * median(taken["unit"]),
            "straightforward_ms": 1e3 * median(taken["peer"]),
            "times_as_fast": speed,
            "noise": ratio(taken["again"], taken["unit"]),
            "goal": {"times_as_fast": GOALS[kind], "met": speed["ratio"] >= GOALS[kind]},
        }
        print(
            f"niff {form:9} {side:4} px {kind:9} {row[kind]['unit_ms']:8.2f} ms, straightforward "
            f"{row[kind]['straightforward_ms']:8.2f} ms: {speed['ratio']:.2f} times as fast (goal {GOALS[kind]})",
            flush=True,
        )
    return row


def crossover(shape: tuple[int, int, int], kernels: tuple[int, ...], settings: Settings) -> dict[str, Any]:
    """The depthwise convolutions around the frequency filter's time. Kernels grow until all are slower."""
    side, channels, batch = shape
    maps = torch.randn(batch, channels, side, side)
    layouts = {"contiguous": maps, "channels last": maps.to(memory_format=torch.channels_last)}
    unit = build("depthwise", channels)
    row: dict[str, Any] = {"side": side, "channels": channels, "batch": batch}
    for kind, make in (("training", training_step), ("inference", inference)):
        cells: dict[str, Any] = {}
        first = None
        for kernel in kernels:
            if kernel > side:
                break
            conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
            steps = {name: make(conv, x, settings) for name, x in layouts.items()}
            taken = times(steps | {"niff": make(unit, maps, settings)}, settings)
            quicker = min(layouts, key=lambda name: median(taken[name]))
            cells[str(kernel)] = {"layout": quicker, "to_niff": ratio(taken[quicker], taken["niff"])}
            if cells[str(kernel)]["to_niff"]["ratio"] > 1:
                first = kernel
                break
        row[kind] = {"kernel": first, "depthwise": cells}
        found = f"from {first}x{first} on" if first else f"not up to {list(cells)[-1]}"
        print(f"niff {side:4} px {kind:9} quicker than a depthwise convolution: {found}", flush=True)
    return row


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Both questions; options: `device`, `seconds`, `quick`, each with a default.

    Raises:
        RuntimeError: the two forms do not agree: then there is no figure.
    """
    quick = getattr(options, "quick", False)
    seconds = 0.0 if quick else getattr(options, "seconds", 1.0)
    device = torch.device(getattr(options, "device", "cpu"))
    settings, brief = Settings(device, "fp32", seconds), Settings(device, "fp32", seconds / 4)
    shapes = QUICK_SHAPES if quick else SHAPES
    rows = [compare(form, shape, settings) for form in FORMS for shape in shapes]
    kernels = QUICK_KERNELS if quick else KERNELS
    return {"rows": rows, "crossover": [crossover(shape, kernels, brief) for shape in shapes], "goals": GOALS}
