"""A calibration set: a few training images, spread over the whole set, as the network sees them in evaluation."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import ArrayImages, Data, FolderImages
from ..errors import check_whole
from .augment import Normalize
from .batches import evaluation_batches


def calibration_batches(
    data: Data, count: int = 1024, *, batch_size: int = 64, dtype: torch.dtype = torch.float32
) -> list[tuple[Tensor, Tensor]]:
    """Pairs of normalised training images (N, C, H, W) and labels (N,) on the CPU, without augmentation.

    Args:
        data: the data set. Its test images are never used.
        count: how many images at most.
        batch_size: how many in a pair.
        dtype: the precision of the images.
    """
    check_whole("count", count)
    train = data.train
    every = max(1, len(train) // count)
    chosen = slice(0, every * min(count, len(train)), every)
    some: ArrayImages | FolderImages
    if isinstance(train, ArrayImages):
        some = ArrayImages(train.images[chosen], train.labels[chosen])
    else:
        size = max(data.image_size)
        some = FolderImages(train.paths[chosen], train.labels[chosen], size, train=False, decoding=train.decoding)
    device = torch.device("cpu")
    normalize = Normalize(data.mean, data.std, device=device, dtype=dtype, channels_last=False)
    return list(evaluation_batches(some, batch_size=batch_size, normalize=normalize, device=device))
