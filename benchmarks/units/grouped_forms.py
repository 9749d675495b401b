"""Is one grouped convolution faster than the convolutions it merges? The papers' forms against ours, on this machine.

- `minimum`: the two depthwise filters as one convolution with two outputs per group, then a minimum over the pair;
- `ghost`: the identity and the ghosts as one depthwise convolution with `ratio` outputs per group and a permutation.

Both give the same values (checked first, in float64). Ratios are the merged form's time over ours, in turns.

    python -m benchmarks.units.grouped_forms [--threads 1] [--repeats 25]
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import write_result

SHAPES = ((64, 32, 32), (32, 64, 28), (32, 256, 14))  # batch, maps, pixels


def minimum_two(u: Tensor, weights: Tensor) -> Tensor:
    """Two depthwise convolutions; weights (2, C, 1, 3, 3)."""
    a, b = (F.conv2d(u, w, padding=1, groups=len(w)) for w in weights)
    return torch.minimum(a, b)


def minimum_grouped(u: Tensor, weights: Tensor) -> Tensor:
    """One convolution with two outputs per group: channel c makes the maps 2c and 2c + 1."""
    both = F.conv2d(u, weights.transpose(0, 1).reshape(-1, 1, 3, 3), padding=1, groups=u.shape[1])
    return both.unflatten(1, (-1, 2)).amin(2)


def ghost_two(u: Tensor, weights: Tensor) -> Tensor:
    """The maps and their ghosts, one each; of the weights (2, C, 1, 3, 3) only the second is used."""
    return torch.cat([u, F.conv2d(u, weights[1], padding=1, groups=u.shape[1])], 1)


def ghost_grouped(u: Tensor, weights: Tensor) -> Tensor:
    """Identity and ghost as one convolution with two outputs per group, then the order of the concatenation."""
    identity = torch.zeros_like(weights[0])
    identity[:, :, 1, 1] = 1
    merged = torch.stack([identity, weights[1]], 1).reshape(-1, 1, 3, 3)
    both = F.conv2d(u, merged, padding=1, groups=u.shape[1])
    return both.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2)


PAIRS = {"minimum": (minimum_two, minimum_grouped), "ghost": (ghost_two, ghost_grouped)}


def seconds_of(form: Callable[[Tensor, Tensor], Tensor], u: Tensor, weights: Tensor) -> float:
    """One forward pass and, if gradients are on, one backward pass."""
    start = perf_counter()
    result = form(u, weights)
    if result.requires_grad:
        result.sum().backward()
    return perf_counter() - start


def ratios(name: str, batch: int, maps: int, pixels: int, dtype: torch.dtype, repeats: int) -> dict[str, float]:
    """The merged form's time over ours, in training and inference."""
    ours, merged = PAIRS[name]
    u = torch.randn(batch, maps, pixels, pixels, dtype=torch.float64)
    weights = torch.randn(2, maps, 1, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(ours(u, weights), merged(u, weights), rtol=1e-12, atol=1e-12)
    u = u.to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    weights = weights.to(dtype).requires_grad_()
    order, found = random.Random(0), {}
    for kind in ("training", "inference"):
        times: dict[int, list[float]] = {0: [], 1: []}
        with torch.set_grad_enabled(kind == "training"):
            for turn in range(repeats + 3):
                for which in order.sample((0, 1), 2):
                    seconds = seconds_of((ours, merged)[which], u, weights)
                    if turn >= 3:
                        times[which].append(seconds)
        found[kind] = median(times[1]) / median(times[0])
    return found


def main() -> None:
    """Measure all and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name in PAIRS:
        for shape in SHAPES:
            for dtype in (torch.float32, torch.bfloat16):
                found = ratios(name, *shape, dtype, options.repeats)
                rows.append({"form": name, "shape": shape, "dtype": str(dtype).removeprefix("torch."), **found})
                print(f"{name:8} {shape} {rows[-1]['dtype']:9} training {found['training']:.2f}x, "
                      f"inference {found['inference']:.2f}x")  # fmt: skip
    write_result("units/grouped_forms", {"threads": options.threads, "rows": rows})


if __name__ == "__main__":
    main()
