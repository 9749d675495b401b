"""Reading an image file, and finding the files that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import first_line
from ..machine import usable_cores
from .progress import track


def open_image(path: Path) -> Image.Image:
    """Decode an image file to RGB, rotated as its EXIF orientation says.

    Grey and palette images get three channels. 16-bit grey is scaled to 8 bits. An alpha channel is dropped. An
    animation is represented by its first frame.
    """
    with Image.open(path) as file:
        image: Image.Image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I"):  # Pillow would clip at 255, although the range is 0..65535
            wide = np.asarray(image).astype(np.int64).clip(0, 65535)
            image = Image.fromarray((wide >> 8).astype(np.uint8))
        return image.convert("RGB")


def find_unreadable(paths: Sequence[Path]) -> dict[Path, str]:
    """The files that cannot be decoded, with the reason. Every file is decoded once, in parallel threads."""
    return {path: reason for path, reason in zip(paths, _reasons(paths), strict=True) if reason is not None}


def _reasons(paths: Sequence[Path]) -> Iterator[str | None]:
    # In batches, because map() queues all its arguments at once. Pillow decodes without holding Python's lock.
    with ThreadPoolExecutor(usable_cores()) as executor:
        batches = (paths[start : start + 1024] for start in range(0, len(paths), 1024))
        results = (reason for batch in batches for reason in executor.map(_reason, batch))
        yield from track(results, "Checking images", len(paths))


def _reason(path: Path) -> str | None:
    try:
        open_image(path)
    except UnidentifiedImageError:  # its text repeats the whole path, which the caller already names
        return "not an image"
    except Exception as error:  # damaged bytes make decoders raise almost any type; each file is reported by name
        return first_line(error, 100)
    return None
