"""The claims of the NIFF paper on frequency filters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from benchmarks.claims.rules import Number, over_seeds
from convswap.measure.kernel_mass import KernelMass, niff_kernel_mass

WINDOW = 9
"""The effective size that the NIFF paper marks."""


def filters_within(model: nn.Module, side: int = 32) -> dict[int, dict[str, float]]:
    """Frequency filters of a model that sees 32 px: by map size, the part within windows."""
    found = niff_kernel_mass(model, torch.zeros(1, 3, side, side))
    by_side: dict[int, list[KernelMass]] = {}
    for mass in found.values():
        by_side.setdefault(mass.sizes[-1] - 1, []).append(mass)  # windows end one pixel beyond an even side
    table = {}
    for size, masses in sorted(by_side.items(), reverse=True):
        row: dict[str, float] = {}
        for window in (3, 5, 9):
            pairs = [mass.mean(window) for mass in masses]
            row |= {
                f"magnitude_{window}": _mean([m for m, _ in pairs]),
                f"energy_{window}": _mean([e for _, e in pairs]),
            }
        table[size] = row
    return table


def niff_numbers(
    trained: Sequence[dict[int, dict[str, float]]], started: Sequence[dict[int, dict[str, float]]], side: int = 32
) -> dict[str, Number]:
    """The numbers of the filters on the largest maps, over seeds."""
    pairs = list(zip(trained, started, strict=True))
    key = f"energy_{WINDOW}"
    return {
        "niff_energy": over_seeds([after[side][key] for after in trained]),
        "niff_magnitude": over_seeds([after[side][f"magnitude_{WINDOW}"] for after in trained]),
        "niff_beyond_3": over_seeds([1 - after[side]["energy_3"] for after in trained]),
        "niff_learned": over_seeds([after[side][key] - before[side][key] for after, before in pairs]),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
