"""Rotations, shears, quarter turns, flips and JPEG."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from convswap.errors import UsageError
from convswap.measure.robustness import (
    compress,
    flip,
    jpeg,
    jpeg_sweep,
    quarter_turn,
    random_rotation,
    random_shear,
    rotation,
    shear,
)


def images(count: int = 2, side: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("fill", ["black", "edge"])
def test_right_angles_are_quarter_turns(interpolation: str, fill: str) -> None:
    """Counterclockwise, both."""
    x = images()
    for turns in range(4):
        turned = rotation(90 * turns, interpolation, fill)(x)
        assert torch.equal(turned, quarter_turn(turns)(x))
        assert torch.equal(turned, torch.rot90(x, turns, (2, 3)))


def test_quarter_turn_by_hand() -> None:
    x = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)[None, None]
    assert quarter_turn(1)(x)[0, 0].tolist() == [[2, 4], [1, 3]]
    assert flip("horizontal")(x)[0, 0].tolist() == [[2, 1], [4, 3]]
    assert flip("vertical")(x)[0, 0].tolist() == [[3, 4], [1, 2]]


def test_fill_and_mask() -> None:
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    assert rotation(45)(white)[0, 0, 0, 0] == 0
    assert torch.equal(rotation(45, fill="edge")(white), white)
    masked = [rotation(angle, masked=True)(white) for angle in (0, 15, 45, 137)]
    assert all(torch.equal(masked[0], other) for other in masked[1:])  # the corners no longer betray the angle
    assert masked[0][0, 0, 0, 0] == 0
    assert float(masked[0].double().mean()) / 255 == pytest.approx(torch.pi / 4 * (31 / 32) ** 2, abs=0.02)


def test_interpolation_matters() -> None:
    x = images()
    assert len(rotation(30, "nearest")(x).unique()) > 200
    assert not torch.equal(rotation(30, "nearest")(x), rotation(30, "bilinear")(x))
    assert torch.equal(rotation(0)(x), x)


def test_shear_by_hand() -> None:
    """By 45 degrees each row moves one pixel farther than the row below it; the middle stays."""
    line = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    line[..., 4] = 1
    found = shear(45)(line)[0, 0]
    where = found[1:-1].argmax(1).tolist()
    assert set(np.diff(where)) in ({1}, {-1})
    assert where[3] == 4
    assert torch.equal(shear(0)(line), line)


def test_random_angles_are_the_images_own() -> None:
    x = images(1).repeat(6, 1, 1, 1)
    for make in (random_rotation, random_shear):
        found = make(60)(x, seed=1)
        assert len({tuple(image.flatten().tolist()) for image in found}) > 3
        assert torch.equal(make(60)(x[4:], seed=1, indices=[4, 5]), found[4:])
        assert torch.equal(make(0)(x), x)
        assert make(60)(x[:0]).shape == (0, 3, 16, 16)


def test_names_tell_interpolation_and_fill() -> None:
    assert rotation(15).name == "rotation_bilinear_black/15"
    assert rotation(-7.5, "nearest", "edge", masked=True).name == "rotation_nearest_edge_masked/-7.5"
    assert shear(10).name == "shear_nearest_black/10"
    assert random_rotation(30).name == "random_rotation_nearest_black/30"
    assert [v.name for v in jpeg_sweep([90, 50])] == ["jpeg/90", "jpeg/50"]
    assert jpeg(10, "minnets_bgr").name == "jpeg_minnets_bgr/10"
    assert [int(v.severity) for v in jpeg_sweep()] == [90, 80, 70, 60, 50, 40, 30, 20, 10]


@pytest.mark.parametrize("quality", [90, 10])
def test_jpeg_is_the_codec(quality: int) -> None:
    x = images(1, 20)
    file = BytesIO()
    Image.fromarray(x[0].permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    assert np.array_equal(compress(x, quality)[0].permute(1, 2, 0).numpy(), np.array(Image.open(file)))


def test_channel_order() -> None:
    """Told that red is blue, the codec keeps the wrong one of the two worse: chroma weighs them differently."""
    x = images(4, 32)
    wrong = compress(x, 20, "minnets_bgr")
    assert not torch.equal(wrong, compress(x, 20))
    assert torch.equal(wrong, compress(x.flip(1), 20).flip(1))
    grey = x[:, :1].expand(-1, 3, -1, -1)
    assert torch.equal(compress(grey, 20, "minnets_bgr"), compress(grey, 20))
    assert compress(x[:, :1], 50).shape == (4, 1, 32, 32)
    flat = torch.full((1, 3, 16, 16), 128, dtype=torch.uint8)
    assert torch.equal(compress(flat, 10), flat)


def test_wrong_arguments() -> None:
    with pytest.raises(UsageError, match="quality=0"):
        jpeg(0)
    with pytest.raises(UsageError, match="channel_order='bgr'"):
        jpeg(50, "bgr")
    with pytest.raises(UsageError, match="interpolation='cubic'"):
        rotation(1, "cubic")
    with pytest.raises(UsageError, match="fill='white'"):
        shear(1, fill="white")
    with pytest.raises(UsageError, match="must be square"):
        rotation(1, masked=True)(torch.zeros(1, 3, 8, 9, dtype=torch.uint8))
    with pytest.raises(UsageError, match="turns=4"):
        quarter_turn(4)
    with pytest.raises(UsageError, match="direction='left'"):
        flip("left")
