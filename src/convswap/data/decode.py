"""Reading one image file, and finding those that cannot be read."""

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
    """Decode an image file to RGB, turned as its EXIF orientation says.

    Grey and palette images get three channels; 16-bit grey is scaled to 8 bits; an alpha channel is dropped; of
    an animation the first frame is taken.
    """
    with Image.open(path) as file:
        image: Image.Image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I"):  # Pillow would clip at 255 where the range is 0..65535
            wide = np.asarray(image).astype(np.int64).clip(0, 65535)
            image = Image.fromarray((wide >> 8).astype(np.uint8))
        return image.convert("RGB")


def find_unreadable(paths: Sequence[Path]) -> dict[Path, str]:
    """The files that cannot be decoded, with the reason; all are decoded once, in parallel threads."""
    return {path: reason for path, reason in zip(paths, _reasons(paths), strict=True) if reason is not None}


def _reasons(paths: Sequence[Path]) -> Iterator[str | None]:
    # In batches, because map() puts all its arguments in the queue at once. Pillow decodes without Python's lock.
    with ThreadPoolExecutor(usable_cores()) as executor:
        batches = (paths[start : start + 1024] for start in range(0, len(paths), 1024))
        results = (reason for batch in batches for reason in executor.map(_reason, batch))
        yield from track(results, "Checking images", len(paths))


def _reason(path: Path) -> str | None:
    try:
        open_image(path)
    except UnidentifiedImageError:  # its text repeats the whole path, and the caller names the file already
        return "not an image"
    except Exception as error:  # decoders raise almost anything on damaged bytes; every case is reported by name
        return first_line(error, 100)
    return None
