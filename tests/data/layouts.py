"""Building folders of images for tests: a path and a class's colour make a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convswap.data import Data, load_data
from convswap.errors import ConvswapError


def image(path: Path, seed: int | None = None, size: tuple[int, int] = (6, 4)) -> Path:
    """A small image whose content follows from the path, or from the seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(list(path.as_posix().encode()) if seed is None else seed)
    Image.fromarray(draw.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path)
    return path


def folder(root: Path, layout: Mapping[str, int]) -> Path:
    """Images by folder: `{"train/ant": 3}` makes `train/ant/0.png` to `2.png`."""
    for place, count in layout.items():
        (root / place).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image(root / place / f"{index}.png")
    return root


def split(root: Path, *parts: str, classes: tuple[str, ...] = ("ant", "bee"), count: int = 3) -> Path:
    """These parts, each with these classes."""
    return folder(root, {f"{part}/{name}": count for part in parts for name in classes})


def load(root: Path, **options: object) -> Data:
    """The folder as data of 8 x 8 pixels."""
    return load_data(f"imagefolder:{root}", image_size=8, **options)  # type: ignore[arg-type]


def refused(root: Path, *fragments: str, **options: object) -> str:
    """Load, and check that one line says all this."""
    with pytest.raises(ConvswapError) as caught:
        load(root, **options)
    said = str(caught.value)
    assert "\n" not in said
    for fragment in fragments:
        assert fragment in said, said
    return said
