"""Photographs of phones (.heic): read where pillow-heif is installed, else counted and named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convswap.data import suffixes
from convswap.data.decode import open_image

from .layouts import load, refused, split


def test_photographs_of_phones_are_read_with_the_package(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    root = split(tmp_path, "train", "val")
    pixels = np.full((32, 48, 3), (200, 60, 30), np.uint8)
    for name in ("a.heic", "b.HEIC"):
        Image.fromarray(pixels).save(root / "train/ant" / name, format="HEIF", quality=90)
    data = load(root)
    assert len(data.train) == 8
    assert data.description is not None
    assert not data.description.left_out
    np.testing.assert_allclose(np.asarray(open_image(root / "train/ant/b.HEIC")), pixels, atol=12)


def test_without_the_package_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suffixes, "find_spec", lambda name: None)
    root = split(tmp_path, "train", "val")
    (root / "train/ant/a.heic").write_bytes(b"a photograph")
    assert "1 file is no image we read (.heic 1 in ant)" in str(load(root).description)
    for file in (root / "train" / "bee").iterdir():
        file.rename(file.with_suffix(".heic"))
    refused(root, "train/bee holds no image that can be read, but 3 files .heic", 'pip install "convswap[heic]"')
