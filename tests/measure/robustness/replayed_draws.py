"""Random numbers as the published CIFAR-10-C generators drew them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


class Replay:
    """The numbers that the published generators drew for one image, in their order, from numpy's global generator."""

    def __init__(self, random: np.random.RandomState, own_generator: bool) -> None:
        self.random: Any = random
        self.source: Any = np.random.default_rng(random.randint(2**31 - 1)) if own_generator else random

    def __len__(self) -> int:
        return 1

    def normal(self, *shape: int) -> Tensor:
        return torch.tensor(self.random.normal(size=shape))[None]

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return torch.tensor(np.array(self.source.uniform(low, high, size=shape or None)))[None]

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.tensor(self.random.randint(low, high, size=shape))[None]

    def poisson(self, rates: Tensor) -> Tensor:
        drawn = self.random.poisson(rates[0].permute(1, 2, 0).numpy())
        return torch.tensor(drawn).permute(2, 0, 1)[None].double()
