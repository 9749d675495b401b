"""Is the nonlocal block's dot-product kernel linear in the pixels? Time and memory over 16 to 128 px.

The factorised form (`pide`) runs beside the dense pairwise form, the matrix of all pairs of pixels as in the official
code (`benchmarks/peers/pide.py`), with the same parameters. Correctness first: both give the same outputs and gradients
in float64. The exponent is the slope of log time over log pixels, 1 for linear, between neighbouring sizes and over
the upper half. It comes from the processor time of the least disturbed turn. Memory is the peak that a pass allocates.
At small sizes fixed costs flatten the slope.

    python -m benchmarks.units.frequency --sections pide
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.straightforward import straightforward
from benchmarks.units.layers import Settings, inference, peak_bytes, ratio, times, training_step
from convswap.units import PIDEBlock

SIDES = (16, 32, 64, 128)
QUICK_SIDES = (8, 16)
CHANNELS, SUBSAMPLE = 32, 2  # of the first unit of the paper's networks
TOLERANCE = 1e-9
GOAL = 1.15  # the exponent over the upper half of the sizes: linear, up to caches


def build(side: int) -> tuple[nn.Module, nn.Module, Tensor]:
    """The block, its dense peer with the same parameters, and one feature map."""
    torch.manual_seed(0)
    block = PIDEBlock(CHANNELS, CHANNELS, subsample=SUBSAMPLE)
    peer = straightforward("pide", block)
    assert peer is not None
    return block, peer, torch.randn(1, CHANNELS, side, side)


def largest_difference(block: nn.Module, peer: nn.Module, x: Tensor) -> float:
    """The largest difference of outputs and input gradients in float64, each relative to its largest value."""
    found = []
    for module in (block, peer):
        exact = copy.deepcopy(module).double().eval()
        image = x.double().requires_grad_()
        output = exact(image)
        found.append((output.detach(), torch.autograd.grad(output.square().sum(), image)[0]))
    pairs = zip(*found, strict=True)
    return max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs)


def busy(step: Callable[[], None], settings: Settings) -> float:
    """The least processor seconds of a step, over several turns. The time of other processes is not included.

    On a GPU, whose work processor time does not show, the least elapsed seconds.
    """
    if settings.device.type != "cpu":
        return min(times({"step": step}, settings)["step"])
    step()
    found, start = [], perf_counter()
    while len(found) < 3 or perf_counter() - start < settings.seconds:
        before = process_time()
        step()
        found.append(process_time() - before)
    return min(found)


def measure(side: int, settings: Settings) -> dict[str, Any]:
    """One size: both forms in turns, in training and inference."""
    block, peer, x = build(side)
    difference = largest_difference(block, peer, x)
    row: dict[str, Any] = {"side": side, "pixels": side * side, "difference": difference}
    if not difference <= TOLERANCE:
        return row | {"red": True}
    for kind, make in (("inference", inference), ("training", training_step)):
        steps = {name: make(module, x, settings) for name, module in (("factorised", block), ("dense", peer))}
        taken = times(steps, settings)
        row[kind] = {f"{name}_ms": 1e3 * median(taken[name]) for name in steps}
        row[kind] |= {f"{name}_busy_ms": 1e3 * busy(step, settings) for name, step in steps.items()}
        row[kind] |= {f"{name}_bytes": peak_bytes(step, settings.device) for name, step in steps.items()}
        row[kind]["dense_to_factorised"] = ratio(taken["dense"], taken["factorised"])
    return row


def exponents(rows: list[dict[str, Any]], kind: str, field: str) -> dict[str, Any]:
    """Slopes of log field over log pixels."""

    def slope(low: dict[str, Any], high: dict[str, Any]) -> float:
        return math.log(high[kind][field] / low[kind][field]) / math.log(high["pixels"] / low["pixels"])

    steps = {f"{a['side']} to {b['side']} px": slope(a, b) for a, b in pairwise(rows)}
    return {"steps": steps, "upper_half": slope(rows[len(rows) // 2 - 1], rows[-1])}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Time and memory over the sizes, and their exponents; options: `device`, `seconds`, `quick`, each with a default.

    Raises:
        RuntimeError: the two forms do not agree: then there is no figure.
    """
    device = torch.device(getattr(options, "device", "cpu"))
    quick = getattr(options, "quick", False)
    settings = Settings(device, "fp32", 0.0 if quick else getattr(options, "seconds", 1.0))
    rows = []
    for side in QUICK_SIDES if quick else SIDES:
        row = measure(side, settings)
        if "red" in row:
            raise RuntimeError(
                f"{side} px: factorised and dense differ by {row['difference']:.1e}, so there is no figure"
            )
        rows.append(row)
        for kind in ("inference", "training"):
            cell = row[kind]
            print(
                f"pide {side:4} px {kind:9} factorised {cell['factorised_ms']:9.3f} ms, "
                f"{cell['factorised_bytes'] / 2**20:7.1f} MB; dense {cell['dense_ms']:9.3f} ms, "
                f"{cell['dense_bytes'] / 2**20:7.1f} MB",
                flush=True,
            )
    found: dict[str, Any] = {}
    for kind in ("inference", "training"):
        for form in ("factorised", "dense"):
            found.setdefault(kind, {})[form] = {
                "time": exponents(rows, kind, f"{form}_busy_ms"),
                "memory": exponents(rows, kind, f"{form}_bytes"),
            }
    linear = all(found[kind]["factorised"]["time"]["upper_half"] <= GOAL for kind in found)
    for kind in found:
        shown = {form: found[kind][form]["time"]["upper_half"] for form in found[kind]}
        print(f"pide {kind}: time grows with pixels to the " + ", ".join(f"{v:.2f} ({k})" for k, v in shown.items()))
    shape = {"batch": 1, "channels": CHANNELS, "subsample": SUBSAMPLE, "layout": "channels last", "precision": "fp32"}
    return {"shape": shape, "rows": rows, "exponents": found, "goal": {"exponent": GOAL, "met": linear}}
