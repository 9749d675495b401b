"""Random numbers of the data methods: one stream per method and epoch, whatever the number of processes."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from torch import Tensor


class Draws:
    """The random numbers of one method in one epoch, step after step.

    All numbers are drawn on the CPU, for the whole global batch. Each process takes its own rows. So the numbers depend
    neither on the device nor on the number of processes.

    Args:
        generator: the stream, a CPU generator.
        rows: images of one process in a batch.
        rank: which process this is.
        world: number of processes.
    """

    def __init__(self, generator: torch.Generator, rows: int, rank: int = 0, world: int = 1) -> None:
        self.generator, self.rows, self.rank, self.world = generator, rows, rank, world

    def _own(self, drawn: Tensor) -> Tensor:
        first = self.rank * self.rows
        return drawn[:, first : first + self.rows].flatten(0, 1)

    def _shape(self, count: int, shape: tuple[int, ...]) -> tuple[int, ...]:
        # A batch may hold several blocks of images, one behind the other: the copies, or AugMix's versions.
        return (count // self.rows, self.rows * self.world, *shape)

    def uniform(self, count: int, *shape: int) -> Tensor:
        """(count, *shape) numbers from 0 to 1, a row for each image of this process's batch."""
        return self._own(torch.rand(self._shape(count, shape), generator=self.generator))

    def whole(self, count: int, most: int) -> Tensor:
        """(count,) whole numbers from 0 to `most`-1, one for each image of this process's batch."""
        return self._own(torch.randint(most, self._shape(count, ()), generator=self.generator))

    def normal(self, count: int, *shape: int) -> Tensor:
        """(count, *shape) numbers from the normal distribution, a row for each image of this process's batch."""
        return self._own(torch.randn(self._shape(count, shape), generator=self.generator))

    def number(self) -> float:
        """A number from 0 to 1, the same in all processes."""
        return float(torch.rand((), generator=self.generator, dtype=torch.float64))

    def beta(self, alpha: float) -> float:
        """A number from the distribution Beta(alpha, alpha), the same in all processes."""
        seed = int(torch.randint(2**62, (), generator=self.generator))
        return random.Random(seed).betavariate(alpha, alpha)

    def seeded(self, count: int) -> Iterator[int]:
        """Loop over the images of this process's batch, with torch's global CPU generator started anew for each.

        This is for the transforms of other packages, which know no other generator. After the loop the global
        generator has its old state.
        """
        seeds = self.whole(count, 2**62).tolist()
        before = torch.get_rng_state()
        try:
            for row, seed in enumerate(seeds):
                torch.default_generator.manual_seed(seed)
                yield row
        finally:
            torch.set_rng_state(before)
