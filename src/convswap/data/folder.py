"""Images in files, decoded and cropped when they are needed."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import DataError, first_line
from .names import shown

if TYPE_CHECKING:
    from PIL.Image import Image

    from .decode import Decoding

_SCALE, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of the crops; the usual ImageNet recipe
_TEST_RESIZE = 256 / 224  # the shorter side before the centre crop, relative to the crop


class FolderImages(Dataset[tuple[Tensor, int]]):
    """Images in files, decoded and cropped on access: `images[i]` is (uint8 CHW tensor, label).

    Training images are cropped at random (area and aspect ratio as for ImageNet) and resized. The crop depends on
    `(seed, epoch, index)` alone, so neither the number of workers nor the order of access changes it. Test images
    are resized (shorter side to 256/224 of the size) and cropped in the centre. Mirroring is done on the device.

    Attributes:
        paths: the files.
        labels: their labels.
        image_size: side of the crop.
        train: whether crops are random.
        decoding: how files become pixels. None: RGB, each file by itself, see `decode.Decoding`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Sequence[int],
        image_size: int,
        *,
        train: bool,
        decoding: Decoding | None = None,
    ):
        self.paths = list(paths)
        self.labels = list(labels)
        self.image_size = image_size
        self.train = train
        self.decoding = decoding
        # Shared memory, so that workers that outlive an epoch (persistent_workers) see the next epoch's number.
        self._seed_and_epoch = torch.zeros(2, dtype=torch.int64).share_memory_()

    def set_epoch(self, seed: int, epoch: int) -> None:
        """Choose the random crops of an epoch. Call it before every epoch."""
        self._seed_and_epoch[0] = seed
        self._seed_and_epoch[1] = epoch

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self.read(index % len(self))

    def read(self, index: int, *, copy: int = 0) -> tuple[Tensor, int]:
        """Image `index` and its label. Several copies of one training image have different crops."""
        from torchvision.transforms.v2 import functional as tv

        image = self._open(self.paths[index])
        size = [self.image_size, self.image_size]
        if self.train:
            seed, epoch = self._seed_and_epoch.tolist()
            top, left, height, width = random_crop(image.height, image.width, seed, epoch, index + copy * len(self))
            image = tv.resized_crop(image, top, left, height, width, size)
        else:
            image = tv.resize(image, [resized_side(self.image_size)])
            image = tv.center_crop(image, size)
        return tv.pil_to_tensor(image), self.labels[index]

    def _open(self, path: Path) -> Image:
        from .decode import Decoding, open_image

        try:
            return open_image(path, self.decoding or Decoding())
        except Exception as error:  # decoders raise almost any type for damaged bytes
            reason = "the file is gone" if isinstance(error, FileNotFoundError) else first_line(error, 100)
            raise DataError(
                f"{shown(path)} cannot be read any more ({reason}); restore it, or leave the images alone while a "
                "training reads them, and run the same command again"
            ) from error


def resized_side(image_size: int) -> int:
    """The shorter side of a test image in pixels before the centre crop of `image_size`.

    >>> resized_side(224), resized_side(1)
    (256, 1)
    """
    return max(image_size, round(image_size * _TEST_RESIZE))


def random_crop(height: int, width: int, seed: int, epoch: int, index: int) -> tuple[int, int, int, int]:
    """The crop (top, left, height, width) of an image: a pure function of its arguments.

    This is the usual method for ImageNet: ten tries at an area of 8 to 100 percent with an aspect ratio of 3/4 to 4/3.
    If none fits the image, the crop is the largest centred one of an allowed aspect ratio.
    """
    digest = blake2b(struct.pack("<qqq", seed, epoch, index), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    draws = torch.rand(10, 4, generator=generator, dtype=torch.float64).tolist()
    log_low, log_high = math.log(_RATIO[0]), math.log(_RATIO[1])
    for draw_area, draw_ratio, draw_top, draw_left in draws:
        area = height * width * (_SCALE[0] + draw_area * (_SCALE[1] - _SCALE[0]))
        ratio = math.exp(log_low + draw_ratio * (log_high - log_low))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(draw_top * (height - crop_height + 1))
            left = int(draw_left * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_width = min(width, max(1, round(height * _RATIO[1])))
    crop_height = min(height, max(1, round(width / _RATIO[0])))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width
