"""Crop, flip and normalise a batch of uint8 images on their device, in a handful of operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageError


@dataclass(frozen=True)
class Draws:
    """The random numbers of one epoch, one row per training image in the order of the epoch.

    All are drawn at once on the CPU, so they depend on the generator alone, not on model, device or batch size.
    """

    shift_N2: Tensor  # rows and columns to move by, in -padding ... padding
    flip_N: Tensor  # bool

    @classmethod
    def draw(cls, count: int, *, padding: int, flip: bool, generator: torch.Generator) -> Draws:
        """Draw for `count` images. The flips are the same whether or not there are crops, and vice versa."""
        shift = torch.randint(-padding, padding + 1, (count, 2), generator=generator)
        flipped = torch.rand(count, generator=generator) < 0.5
        return cls(shift, flipped if flip else torch.zeros_like(flipped))

    def alternating(self, first_N: Tensor, epoch: int) -> Draws:
        """The same moves, with each image flipped as in its first epoch (`first_N`), and turned over in every later."""
        return Draws(self.shift_N2, first_N ^ (epoch % 2 == 0))

    def to(self, device: torch.device) -> Draws:
        """The same draws on a device."""
        return Draws(self.shift_N2.to(device), self.flip_N.to(device))

    def __getitem__(self, rows: slice | Tensor) -> Draws:
        return Draws(self.shift_N2[rows], self.flip_N[rows])


def check_padding(padding: int, image_size: tuple[int, int], mode: str) -> None:
    """Refuse a padding that reflection cannot fill: it must be smaller than the image."""
    if mode == "reflect" and padding >= min(image_size):
        raise UsageError(
            f"crop_padding={padding} is not allowed with padding_mode='reflect' on images of "
            f"{image_size[0]}x{image_size[1]}; it must be below {min(image_size)}"
        )


def _source(length: int, shift_N: Tensor) -> Tensor:
    """The source of each pixel of a shifted line, (N, length). In the padding it lies outside 0 ... length-1."""
    return shift_N[:, None] + torch.arange(length, device=shift_N.device)


def crop_flip(images_NHWC: Tensor, index_N: Tensor, draws: Draws, *, padding_mode: str = "reflect") -> Tensor:
    """Take images out of a stack, each moved and flipped as drawn, by a single gather.

    Args:
        images_NHWC: all images of the data set.
        index_N: which of them to take.
        draws: one row per image taken.
        padding_mode: `"reflect"` or `"zeros"`.

    Returns:
        (len(index_N), H, W, C) in the dtype of the images.
    """
    _, height, width, channels = images_NHWC.shape
    row_NH = _source(height, draws.shift_N2[:, 0])
    column_NW = _source(width, draws.shift_N2[:, 1])
    column_NW = torch.where(draws.flip_N[:, None], column_NW.flip(1), column_NW)
    outside = None
    if padding_mode == "zeros":
        outside = _is_outside(row_NH, height)[:, :, None] | _is_outside(column_NW, width)[:, None, :]
        row_NH, column_NW = row_NH.clamp(0, height - 1), column_NW.clamp(0, width - 1)
    else:
        row_NH, column_NW = _reflect(row_NH, height), _reflect(column_NW, width)
    flat = (index_N[:, None] * height + row_NH)[:, :, None] * width + column_NW[:, None, :]
    taken = images_NHWC.view(-1, channels).index_select(0, flat.view(-1))
    taken = taken.view(len(index_N), height, width, channels)
    return taken if outside is None else taken.masked_fill_(outside[..., None], 0)


def _is_outside(position: Tensor, length: int) -> Tensor:
    return (position < 0) | (position >= length)


def _reflect(position: Tensor, length: int) -> Tensor:
    """Mirror at the border pixels without repeating them, as `torch.nn.functional.pad(mode="reflect")` does."""
    position = position.abs()
    return torch.minimum(position, 2 * (length - 1) - position)


class Normalize:
    """uint8 pixels to network input: `(pixel / 255 - mean) / std` per channel.

    Args:
        mean: per channel, of pixels in 0 ... 1.
        std: likewise.
        device: where the images are.
        dtype: of the result.
        channels_last: memory format of the result.
    """

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
    ) -> None:
        # The constants are computed in float64 first: scale * pixel + shift then rounds once.
        mean_C, std_C = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        self.scale_C = (1 / (255 * std_C)).to(device=device, dtype=torch.float32)
        self.shift_C = (-mean_C / std_C).to(device=device, dtype=torch.float32)
        self.dtype = dtype
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, pixels_NHWC: Tensor) -> Tensor:
        """(N, H, W, C) uint8 to (N, C, H, W) in the dtype and memory format asked for."""
        values = torch.addcmul(self.shift_C, pixels_NHWC.to(torch.float32), self.scale_C)
        return values.to(self.dtype).permute(0, 3, 1, 2).contiguous(memory_format=self.format)
