"""The recipe's regularisers that change batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..regularizers import Draws, Regularizer, overrides
from .augment import Normalize
from .seeding import Share, generator_for

Batch = tuple[Tensor, Tensor]
Finish = Callable[[Tensor, Normalize, Tensor], Batch]


class DataMethods:
    """The methods that change batches. Their random numbers depend on (seed, epoch, method) alone.

    Attributes:
        copies: how often each image stands in its batch, which grows.
        repeats: how often each image stands in its batch, which keeps its size.
        active: does any method change batches?
    """

    def __init__(self, methods: tuple[Regularizer, ...], *, seed: int, num_classes: int, share: Share) -> None:
        self._pixels = [method for method in methods if overrides(method, Regularizer.pixels)]
        self._batch = [method for method in methods if overrides(method, Regularizer.batch)]
        self.copies = max((method.copies() for method in methods), default=1)
        self.repeats = max((method.repeats() for method in methods), default=1)
        self.active = bool(self._pixels or self._batch) or self.copies > 1 or self.repeats > 1
        self._seed, self._num_classes, self._share = seed, num_classes, share

    def epoch(self, epoch: int, rows: int) -> Finish:
        """What turns uint8 images (N, H, W, C), a function that normalises them and labels into a finished batch.

        Args:
            epoch: counted from 1.
            rows: images of one process in a batch, before copies are made.
        """
        names = [method.name for method in (*self._pixels, *self._batch)]
        streams = {name: generator_for(self._seed, epoch, f"regularizer {name}") for name in names}
        draws = {name: Draws(stream, rows, self._share.rank, self._share.world) for name, stream in streams.items()}

        @torch.no_grad()
        def finish(pixels_NHWC: Tensor, normalize: Normalize, targets: Tensor) -> Batch:
            for method in self._pixels:
                changed = method.pixels(pixels_NHWC.permute(0, 3, 1, 2), draws[method.name])
                pixels_NHWC = changed.permute(0, 2, 3, 1).contiguous()
            images = normalize(pixels_NHWC)
            for method in self._batch:
                images, targets = method.batch(images, targets, draws[method.name], self._num_classes)
            return images, targets

        return finish
