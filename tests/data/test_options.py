"""Channels and background: what they do to pixels, and that they make another data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convswap.data import load_data
from convswap.data.decode import Decoding, open_image
from convswap.data.options import DataOptions
from convswap.errors import UsageError

from .layouts import load, refused, split


def grey(root: Path) -> Path:
    for path in split(root, "train", "val").rglob("*.png"):
        Image.open(path).convert("L").save(path)
    return root


def test_grey_folders_keep_one_channel_on_request(tmp_path: Path) -> None:
    root = grey(tmp_path)
    auto, one = load(root), load(root, channels="gray")
    assert (auto.channels, one.channels) == (3, 1)
    assert "grey; all images are grey, read as RGB: --channels gray keeps one channel" in str(auto.description)
    assert "--channels" not in str(one.description)
    assert (one.mean, one.std) == ((0.449,), (0.226,))
    assert one.train[0][0].shape == (1, 8, 8)
    assert torch.equal(auto.test[0][0][:1], one.test[0][0])
    assert one.options == {"channels": "gray"}
    assert one.fingerprint != auto.fingerprint
    assert "--channels" not in str(load(root, channels="rgb").description)


def test_colour_becomes_grey_as_asked(tmp_path: Path) -> None:
    data = load(split(tmp_path, "train", "val"), channels="gray")
    assert data.channels == 1
    assert "RGB; read as grey" in str(data.description)
    wanted = np.asarray(Image.open(data.test.paths[0]).convert("L"))
    assert np.array_equal(np.asarray(open_image(data.test.paths[0], data.test.decoding)), wanted)


FORMS = {
    "RGBA": lambda image: image,
    "LA": lambda image: image.convert("LA"),
    "palette": lambda image: image.quantize(4),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("background", "wanted"), [("#ffffff", 255), ("#000000", 0), ("#808080", 128)])
def test_transparent_pixels_show_the_background(tmp_path: Path, form: str, background: str, wanted: int) -> None:
    pixels = np.full((4, 6, 4), 60, np.uint8)
    pixels[:, :3, 3], pixels[:, 3:, 3] = 0, 255
    FORMS[form](Image.fromarray(pixels)).save(tmp_path / "a.png")
    found = np.asarray(open_image(tmp_path / "a.png", Decoding(background=background))).astype(int)
    assert found.shape == (4, 6, 3)
    np.testing.assert_allclose(found[:, :3], wanted, atol=1)
    np.testing.assert_allclose(found[:, 3:], 60, atol=1)


def test_half_transparent_pixels_are_mixed(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4, 4), 128, np.uint8)).save(tmp_path / "a.png")
    np.testing.assert_allclose(np.asarray(open_image(tmp_path / "a.png")), 191, atol=1)


def test_a_colour_key_is_transparent(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (9, 8, 7)).save(tmp_path / "a.png", transparency=(9, 8, 7))
    assert (np.asarray(open_image(tmp_path / "a.png")) == 255).all()


def test_the_background_is_said_and_makes_other_data(tmp_path: Path) -> None:
    root = split(tmp_path, "train", "val")
    Image.new("RGBA", (6, 4), (1, 2, 3, 0)).save(root / "train" / "ant" / "0.png")
    white, black = load(root), load(root, background="black")
    assert "1 image with transparent pixels laid on white" in str(white.description)
    assert "laid on #000000" in str(black.description)
    assert white.fingerprint != black.fingerprint
    assert (white.options, black.options) == ({}, {"background": "#000000"})
    assert load(root, background="#FFF").fingerprint == white.fingerprint


def test_values_that_are_not_allowed(tmp_path: Path) -> None:
    root = split(tmp_path, "train", "val")
    refused(root, "background='nocolour' is not allowed; give a colour's name", background="nocolour")
    refused(root, "channels='grey' is not allowed; choose one of 'auto', 'gray', 'rgb'", channels="grey")


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"channels": "rgb"}, "channels='rgb' is not allowed for 'digits': its images are grey"),
        ({"background": "black"}, "background='#000000' is not allowed for 'digits'"),
        ({"eval_split": "val"}, "eval_split='val' is not allowed for digits: it has no such part, but x_test"),
    ],
)
def test_arrays_refuse_what_they_cannot_follow(options: dict[str, str], fragment: str) -> None:
    with pytest.raises(UsageError, match=fragment):
        load_data("digits", **options)  # type: ignore[arg-type]
    assert load_data("digits", channels="gray", eval_split="test").options == {"eval_split": "test"}


def test_options_off_their_defaults_travel_as_a_dictionary() -> None:
    assert DataOptions().as_dict() == {}
    options = DataOptions(channels="gray", background="black", eval_split="val")
    assert options.as_dict() == {"channels": "gray", "background": "#000000", "eval_split": "val"}
    assert DataOptions.from_dict(options.as_dict()) == options
    with pytest.raises(UsageError, match="unknown data option 'chanels'; did you mean 'channels'"):
        DataOptions.from_dict({"chanels": "gray"})
