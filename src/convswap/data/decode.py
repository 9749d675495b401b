"""Reading an image file: orientation, depth, transparency and channels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .depth import Scale, find_scale
from .names import shown
from .options import WHITE
from .suffixes import HEIF_SUFFIXES, has_heif

FLOAT = "F"
"""Pillow's mode of floats. Other wide modes hold whole numbers."""


@dataclass(frozen=True)
class Decoding:
    """How the files of a data set become pixels.

    Attributes:
        channels: 3 (RGB) or 1 (grey).
        background: `#rrggbb`, the colour behind transparent pixels.
        scale: of images of more than 8 bits, found over the whole data set. None: by the values of each file alone.
    """

    channels: int = 3
    background: str = WHITE
    scale: Scale | None = None


def open_image(path: Path, decoding: Decoding = Decoding()) -> Image.Image:
    """Decode an image file to RGB or grey, rotated as its EXIF orientation says.

    Palettes are resolved. Whole numbers of more than 8 bits and floats are scaled as `decoding` says. Transparent
    pixels show the background. An animation is represented by its first frame.

    Raises:
        DataError: without `decoding.scale`, the values of a wide image have no usual range.
    """
    register_plugins(path)
    with Image.open(path) as file:
        return decode(file, decoding, shown(path))


def register_plugins(path: Path) -> None:
    """Let Pillow read .heic files, where the optional package is installed."""
    if path.suffix.lower() in HEIF_SUFFIXES and has_heif():
        import pillow_heif

        pillow_heif.register_heif_opener()


def decode(file: Image.Image, decoding: Decoding, source: str) -> Image.Image:
    """The pixels of an opened file, as `open_image` returns them."""
    image: Image.Image = ImageOps.exif_transpose(file)
    if is_wide(image.mode):
        values = np.asarray(image)
        scale = decoding.scale or find_scale(*extremes(values), whole=image.mode != FLOAT, source=source)
        image = Image.fromarray(scale.to_bytes(values))
    elif image.has_transparency_data:
        image = _on_background(image, decoding.background)
    return image.convert("RGB" if decoding.channels == 3 else "L")


def is_wide(mode: str) -> bool:
    """Whether pixels of this mode of Pillow are numbers beyond 8 bits, which Pillow would clip at 255."""
    return mode == FLOAT or mode.startswith("I")


def extremes(values: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest value."""
    return float(values.min()), float(values.max())


def _on_background(image: Image.Image, background: str) -> Image.Image:
    """The image before a plain colour: what a viewer shows."""
    front = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", front.size, background), front)
