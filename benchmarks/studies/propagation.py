"""Do signals and perturbations grow with depth? Hamiltonian, nonlocal and ResNet blocks, for step sizes 0.03 to 1.

Chains of 64 blocks with random weights, each drawn as its paper draws it, on real images that a random stem lifts to 16
channels at half resolution. `convswap.measure.propagation` reports the growth of the norm and of a small perturbation.
Every chain is measured twice: as drawn (BatchNorm without effect) and with BatchNorm's statistics taken from the
images, as in a training step. A `unit` repeats the sequence of the paper's networks: two Hamiltonian blocks, a
nonlocal one, four Hamiltonian blocks. The ResNet block with a step is `x + h F(x)`, `F` = conv, BN, ReLU, conv, BN.
With h = 1 and a rectifier behind the sum it is He's block. The median of the seeds is reported.

    python -m benchmarks.studies.propagation [--data cifar10] [--data-root DIR] [--images 8] [--depth 64] [--seeds 3]
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import write_result
from convswap.data import load_data
from convswap.measure.propagation import Propagation, propagation_stability
from convswap.units import HamiltonianBlock, PIDEBlock

CHANNELS = 16
STEPS = (0.03, 0.06, 0.1, 0.3, 1.0)


class ResidualStep(nn.Module):
    """`x + h BN(conv relu(BN(conv x)))`, with `relu` rectified after the sum."""

    def __init__(self, channels: int, relu: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.step, self.relu = 1.0, relu
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        y = x + self.step * self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y) if self.relu else y


def _unit(index: int, kernel: str) -> nn.Module:
    return PIDEBlock(CHANNELS, CHANNELS, kernel=kernel) if index % 7 == 2 else HamiltonianBlock(CHANNELS, CHANNELS)


BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "hamiltonian": lambda index: HamiltonianBlock(CHANNELS, CHANNELS),
    "parabolic": lambda index: HamiltonianBlock(CHANNELS, CHANNELS, form="parabolic"),
    "unit, laplacian": lambda index: _unit(index, "laplacian"),
    "unit, fractional": lambda index: _unit(index, "fractional"),
    "pide, laplacian": lambda index: PIDEBlock(CHANNELS, CHANNELS),
    "pide, fractional": lambda index: PIDEBlock(CHANNELS, CHANNELS, kernel="fractional"),
    "resnet": lambda index: ResidualStep(CHANNELS, relu=False),
    "resnet, rectified": lambda index: ResidualStep(CHANNELS, relu=True),
}


def images(options: argparse.Namespace) -> Tensor:
    """Real images, standardised."""
    data = load_data(options.data, root=options.data_root, download=False)
    x = data.test.images[: options.images].double() / 255  # type: ignore[union-attr]
    return (x - x.mean()) / x.std()


def lifted(x: Tensor, seed: int) -> Tensor:
    """Through a random stem: conv, ReLU, 2x2 average."""
    torch.manual_seed(seed)
    stem = nn.Conv2d(x.shape[1], CHANNELS, 3, padding=1, bias=False, dtype=x.dtype)
    nn.init.kaiming_normal_(stem.weight)
    with torch.no_grad():
        return F.avg_pool2d(F.relu(stem(x)), 2)


def calibrated(chain: nn.Sequential, x: Tensor) -> nn.Sequential:
    """Set every BatchNorm's statistics from this batch, as it arrives through the blocks before."""
    for module in chain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over batches, of which there is one
    with torch.no_grad():
        chain.train()(x)
    return chain.eval()


def growth(name: str, step: float, norm: str, x: Tensor, depth: int, seed: int) -> list[Propagation]:
    """One chain."""
    x = lifted(x, seed)
    torch.manual_seed(seed)
    chain = nn.Sequential(*(BLOCKS[name](index) for index in range(depth))).double()
    for block in chain:
        block.step = step  # type: ignore[assignment]
    if norm == "batch statistics":
        calibrated(chain, x)
    depths = [d for d in (1, 2, 4, 8, 16, 32, 64, 128) if d <= depth]
    return propagation_stability(chain, x, step_sizes=None, depths=depths, seed=seed)


def finite(values: list[float]) -> float | None:
    """The median; None where it overflowed."""
    middle = median(values)
    return middle if math.isfinite(middle) else None


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Rows by block, kind of normalisation and step size: growth at each depth."""
    x, rows = images(options), []
    for name in BLOCKS:
        for norm in ("as drawn", "batch statistics"):
            for step in STEPS:
                found = [growth(name, step, norm, x, options.depth, seed) for seed in range(options.seeds)]
                at = {
                    str(same[0].depth): {
                        "norm": finite([row.norm_growth for row in same]),
                        "perturbation": finite([row.perturbation_growth for row in same]),
                    }
                    for same in zip(*found, strict=True)
                }
                rows.append({"block": name, "norm": norm, "step": step, "depths": at})
                deepest, last = list(at.items())[-1]
                shown = {k: "overflow" if v is None else f"{v:.3g}" for k, v in last.items()}
                print(
                    f"{name:18} {norm:16} h = {step:<4}: after {deepest} blocks norm x {shown['norm']}, "
                    f"perturbation x {shown['perturbation']}",
                    flush=True,
                )
    return {"rows": rows}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-root", default=os.environ.get("CONVSWAP_DATA"))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--depth", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dry", action="store_true", help="write no result")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    found = run(options)
    if not options.dry:
        settings = {name: getattr(options, name) for name in ("data", "images", "depth", "seeds", "threads")}
        write_result("studies/propagation", {"channels": CHANNELS, **settings, **found})
    return found


if __name__ == "__main__":
    main()
