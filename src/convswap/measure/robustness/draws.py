"""Random numbers that belong to an image, not to a batch: one stream per image, keyed by seed, name and index.

Every model then sees the same perturbed images (common random numbers), however they are split into batches and on
whatever device the model runs. An image looks the same in a subset as in the whole data set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_STREAMS = 2**32  # torch's CPU generator is seeded by 32 bits
_STRIDE = 2_654_435_761  # odd, so images of one set never share a stream


class Draws:
    """Random numbers for the images of a batch, each from the image's own stream on the CPU.

    Args:
        seed: of the whole evaluation.
        name: what the numbers are for, e.g. `"gaussian_noise/3"`.
        indices: which images of the data set the batch holds.

    >>> whole = Draws(0, "noise", range(4)).uniform(0, 1, 2)
    >>> part = Draws(0, "noise", [3]).uniform(0, 1, 2)
    >>> bool((whole[3] == part[0]).all())
    True
    """

    def __init__(self, seed: int, name: str, indices: Sequence[int]) -> None:
        digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=4).digest()
        start = int.from_bytes(digest, "little")
        self._seed, self._name, self.indices = seed, name, indices
        self._shared = 0  # groups of shared numbers drawn so far
        self._streams = [torch.Generator().manual_seed((start + i * _STRIDE) % _STREAMS) for i in indices]

    def __len__(self) -> int:
        return len(self._streams)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, (N, *shape), float64."""
        return self._stack([torch.randn(shape, generator=stream) for stream in self._streams], shape).double()

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform numbers in [low, high), (N, *shape), float64."""
        drawn = [torch.rand(shape, generator=stream, dtype=torch.float64) for stream in self._streams]
        return self._stack(drawn, shape).double() * (high - low) + low

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Whole numbers in low ... high - 1, (N, *shape), int64."""
        return self._stack([torch.randint(low, high, shape, generator=s) for s in self._streams], shape).long()

    def poisson(self, rates: Tensor) -> Tensor:
        """Poisson numbers of these rates, (N, ...)."""
        if not self._streams:
            return rates.clone()
        return torch.stack([torch.poisson(r, generator=s) for r, s in zip(rates, self._streams, strict=True)])

    def shared(self, low: int, high: int, group: int) -> Tensor:
        """Whole numbers in low ... high - 1, (N,), the same for `group` consecutive images of the data."""
        self._shared += 1
        name = f"{self._name} shared {self._shared}"
        blocks = sorted({index // group for index in self.indices})
        drawn = dict(zip(blocks, Draws(self._seed, name, blocks).integers(low, high).tolist(), strict=True))
        return torch.tensor([drawn[index // group] for index in self.indices], dtype=torch.int64)

    @staticmethod
    def _stack(rows: list[Tensor], shape: tuple[int, ...]) -> Tensor:
        return torch.stack(rows) if rows else torch.empty(0, *shape)
