"""Where the random numbers of a training come from, and which of them a process takes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

MOST_SEED = 2**63 - 1
"""The largest seed: what a signed integer of 64 bits can hold."""


def generator_for(seed: int, epoch: int, purpose: str) -> torch.Generator:
    """An independent CPU generator for each (seed, epoch, purpose)."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


@dataclass(frozen=True)
class Share:
    """Which part of each global batch this process takes."""

    rank: int = 0
    world: int = 1


ALONE = Share()
"""The share of a single process."""
