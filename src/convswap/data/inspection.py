"""One pass over all files before anything is trained: each is read, hashed and decoded once, in parallel threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import first_line
from ..machine import usable_cores
from .decode import Decoding, decode, extremes, is_wide, register_plugins
from .progress import track

_TURNED = range(5, 9)  # EXIF orientations that exchange width and height
_ORIENTATION = 0x0112
WIDE_COLOUR = "16-bit colour"


@dataclass(frozen=True)
class FileFacts:
    """What the pass learns of an image file.

    Attributes:
        digest: sha256 of its bytes.
        width: in pixels, as shown.
        height: likewise.
        kind: Pillow's mode (`"RGB"`, `"L"`, `"I;16"`, ...), or `WIDE_COLOUR`, of which Pillow reads the upper 8 bits.
        low: the smallest value of a wide image, else 0.
        high: the largest value of a wide image or of `WIDE_COLOUR` (there of the 8 bits read), else 255.
        transparent: whether a background shows through it.
    """

    digest: str
    width: int
    height: int
    kind: str
    low: float = 0
    high: float = 255
    transparent: bool = False


def inspect_files(paths: Sequence[Path]) -> Iterator[FileFacts | str]:
    """The facts of every file in order, or the reason why a file cannot be read."""
    # In batches, because map() queues all its arguments at once. Pillow decodes without holding Python's lock.
    with ThreadPoolExecutor(usable_cores()) as executor:
        batches = (paths[start : start + 1024] for start in range(0, len(paths), 1024))
        results = (found for batch in batches for found in executor.map(_inspect, batch))
        yield from track(results, "Checking images", len(paths))


def _inspect(path: Path) -> FileFacts | str:
    try:
        content = path.read_bytes()
        register_plugins(path)
        with Image.open(BytesIO(content)) as file:
            return _facts(file, sha256(content).hexdigest())
    except UnidentifiedImageError:  # its text repeats the whole path, which the caller already names
        return "not an image"
    except Exception as error:  # damaged bytes make decoders raise almost any type; each file is reported by name
        return first_line(error, 100)


def _facts(file: Image.Image, digest: str) -> FileFacts | str:
    # Before decoding, which forgets it: how the numbers are stored.
    stored = next((str(tile[3]) for tile in getattr(file, "tile", ())), "")
    turned = file.getexif().get(_ORIENTATION) in _TURNED
    width, height = reversed(file.size) if turned else file.size
    if is_wide(file.mode):
        values = np.asarray(file)
        if not np.isfinite(values).all():
            return "holds values that are no numbers (NaN or infinite)"
        low, high = extremes(values)
        return FileFacts(digest, width, height, file.mode, low, high)
    kind = WIDE_COLOUR if ";16" in stored else file.mode
    image = decode(file, Decoding(), "")  # whatever fails in training should fail here
    high = float(np.asarray(image).max()) if kind == WIDE_COLOUR else 255.0
    return FileFacts(digest, width, height, kind, 0.0, high, file.has_transparency_data)
