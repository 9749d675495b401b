"""Images of more than 8 bits: white is found over the whole data set, said once, or the data set is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from convswap.data.decode import Decoding, open_image
from convswap.data.depth import Scale, find_scale
from convswap.data.inspection import inspect_files
from convswap.errors import DataError

from .layouts import load, refused

RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (4, 1))
BRIGHTNESS = {"train/ant": 0.25, "train/bee": 1.0, "val/ant": 0.5, "val/bee": 0.125}

WIDE = {
    "12 bit in 16-bit PNG": ("png", lambda a: a.astype(np.uint16) * 16, "values 0..4080: read as 12 bit"),
    "12 bit in 16-bit TIFF": ("tif", lambda a: a.astype(np.uint16) * 16, "values 0..4080: read as 12 bit"),
    "10 bit in 16-bit PNG": ("png", lambda a: a.astype(np.uint16) * 4, "values 0..1020: read as 10 bit"),
    "14 bit in 16-bit PNG": ("png", lambda a: a.astype(np.uint16) * 64, "values 0..16320: read as 14 bit"),
    "8 bit in 16-bit PNG": ("png", lambda a: a.astype(np.uint16), "values 0..255: read as 8 bit"),
    "16 bit": ("png", lambda a: a.astype(np.uint16) * 257, "values 0..65535: read as 16 bit"),
    "int32 of 16 bit": ("tif", lambda a: a.astype(np.int32) * 257, "values 0..65535: read as 16 bit"),
    "int32 of 8 bit": ("tif", lambda a: a.astype(np.int32), "values 0..255: read as 8 bit"),
    "float 0..1": ("tif", lambda a: (a / 255).astype(np.float32), "values 0..1: read as 0..1"),
    "float 0..255": ("tif", lambda a: a.astype(np.float32), "values 0..255: read as 8 bit"),
    "float 0..65535": ("tif", lambda a: a.astype(np.float32) * 257, "values 0..65535: read as 16 bit"),
}


def written(root: Path, form: str, change) -> Path:
    """Two classes of a ramp, darker in some places: no file but one reaches the set's largest value."""
    for place, brightness in BRIGHTNESS.items():
        (root / place).mkdir(parents=True)
        Image.fromarray(change((RAMP * brightness).astype(np.uint8))).save(root / place / f"0.{form}")
    return root


@pytest.mark.parametrize("case", WIDE)
def test_dark_images_stay_dark_and_the_range_is_said(tmp_path: Path, case: str) -> None:
    form, change, said = WIDE[case]
    data = load(written(tmp_path, form, change))
    assert said in str(data.description)
    for images in (data.train, data.test):
        for path in images.paths:
            wanted = (RAMP * BRIGHTNESS["/".join(path.parts[-3:-1])]).astype(np.uint8)
            found = np.asarray(open_image(path, images.decoding))
            np.testing.assert_allclose(found, np.stack([wanted] * 3, -1), atol=1)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda a: a.astype(np.int32) * 1200, "values 0..306000 of whole numbers have no usual range"),
        (lambda a: a.astype(np.int32) - 100, "values -100..155 of whole numbers"),
        (lambda a: (a / 255 - 0.5).astype(np.float32), "values -0.5..0.5 of floats"),
        (lambda a: (a / 100).astype(np.float32), "values 0..2.55 of floats"),
        (lambda a: (a * 1200.0).astype(np.float32), "values 0..306000 of floats"),
    ],
)
def test_values_of_no_usual_range_are_refused(tmp_path: Path, change, fragment: str) -> None:
    refused(written(tmp_path, "tif", change), fragment, "with low and high of the whole data set")


def test_no_numbers_are_named(tmp_path: Path) -> None:
    root = written(tmp_path, "tif", lambda a: np.where(a == a.max(), np.nan, a).astype(np.float32))
    refused(root, "train/ant/0.tif (holds values that are no numbers")


def test_floats_among_whole_numbers_are_refused(tmp_path: Path) -> None:
    root = written(tmp_path, "tif", lambda a: a.astype(np.int32))
    Image.fromarray(RAMP.astype(np.float32)).save(root / "val" / "bee" / "1.tif")
    refused(root, "1 file of floats and 4 of whole numbers")


def test_wide_files_among_others_are_said(tmp_path: Path) -> None:
    root = written(tmp_path, "png", lambda a: a.astype(np.uint16) * 16)
    Image.fromarray(RAMP).save(root / "val" / "bee" / "1.png")
    data = load(root)
    assert "16-bit grey 4, grey 1" in str(data.description)
    assert "only 4 of 5 files have more than 8 bits" in str(data.description)
    assert np.array_equal(np.asarray(open_image(data.test.paths[-1], data.test.decoding))[..., 0], RAMP)


def test_a_class_of_fewer_bits_is_named(tmp_path: Path) -> None:
    root = written(tmp_path, "png", lambda a: a.astype(np.uint16) * 257)
    Image.fromarray(RAMP.astype(np.uint16)).save(root / "train" / "cow.png")
    (root / "train" / "cow").mkdir()
    (root / "train" / "cow.png").rename(root / "train" / "cow" / "0.png")
    assert "class cow reaches 255 only" in str(load(root).description)


def wide_png(path: Path, pixels: np.ndarray) -> None:
    """A colour PNG of 16 bits, which Pillow reads and cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def test_colour_of_16_bits_is_read_if_it_uses_them(tmp_path: Path) -> None:
    colour = np.stack([RAMP, RAMP[:, ::-1], RAMP], -1).astype(np.uint16)
    for place in BRIGHTNESS:
        (tmp_path / place).mkdir(parents=True)
        wide_png(tmp_path / place / "0.png", colour * 257)
    assert "16-bit colour" in str(load(tmp_path).description)
    for place in BRIGHTNESS:
        wide_png(tmp_path / place / "0.png", colour * 16)
    refused(tmp_path, "4 colour images of 16 bits with values only up to 4095")


@given(st.sampled_from([8, 10, 12, 14, 16]), st.booleans(), st.floats(0, 1))
def test_a_scale_is_monotone_and_reaches_black_and_white(bits: int, whole: bool, share: float) -> None:
    white = 2**bits - 1
    scale = find_scale(0, white, whole=whole, source="set")
    values = np.array([0.0, share * white / 2, share * white, white])
    assert scale.white == white
    assert (np.diff(scale.to_bytes(values).astype(int)) >= 0).all()
    assert scale.to_bytes(np.array([-5.0, 0, white, white * 3.0])).tolist() == [0, 0, 255, 255]


def test_a_file_alone_is_read_by_its_own_range(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.uint16) * 16).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png"))[..., 0], RAMP)
    other = Decoding(scale=Scale(65535, True, ""))
    assert np.asarray(open_image(tmp_path / "a.png", other)).max() == 255 // 16
    Image.fromarray(RAMP.astype(np.int32) - 9).save(tmp_path / "b.tif")
    with pytest.raises(DataError, match=r"b\.tif: values -9\.\.246"):
        open_image(tmp_path / "b.tif")


def test_the_pass_sees_size_as_shown_and_contents(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RAMP).save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "bad.png").write_bytes(b"no image")
    (facts, reason, gone) = inspect_files([tmp_path / n for n in ("turned.jpg", "bad.png", "gone.png")])
    assert (facts.width, facts.height, facts.kind) == (4, 64, "L")
    assert reason == "not an image"
    assert "No such file" in gone
