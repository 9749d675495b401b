"""Cutout: the authors' square, clipped at the border."""

from __future__ import annotations

import pytest
import torch
from small_training import make_data

from convswap.errors import UsageError
from convswap.regularizers import Draws, parse_regularizer
from convswap.train import Recipe
from convswap.train.regularization import setting_of


def holes(length: int, size: tuple[int, int], count: int, seed: int = 0) -> torch.Tensor:
    """(N, H, W) True where a pixel was removed."""
    images = torch.ones(count, 3, *size)
    draws = Draws(torch.Generator().manual_seed(seed), count)
    changed, _ = parse_regularizer(f"cutout:{length}").batch(images, torch.zeros(count), draws, 10)
    assert torch.equal(images, torch.ones_like(images)), "the input was changed"
    assert ((changed == 0) | (changed == 1)).all()
    assert torch.equal(changed[:, :1].expand_as(changed), changed), "all channels lose the same pixels"
    return changed[:, 0] == 0


@pytest.mark.parametrize(("length", "size"), [(4, (5, 9)), (8, (8, 8)), (5, (7, 6))])
def test_every_hole_is_a_clipped_square_with_its_centre_in_the_image(length: int, size: tuple[int, int]) -> None:
    half = length // 2
    allowed = set()
    for y in range(size[0]):
        for x in range(size[1]):
            square = torch.zeros(size, dtype=torch.bool)
            square[max(0, y - half) : y + half, max(0, x - half) : x + half] = True
            allowed.add(tuple(square.flatten().tolist()))
    found = {tuple(hole.flatten().tolist()) for hole in holes(length, size, 3000)}
    assert found == allowed


def test_the_removed_area_is_the_expected_one() -> None:
    """E[area] = (sum over y of the clipped height) (sum over x of the clipped width) / (H W), below L^2."""

    def mean_side(side: int, half: int) -> float:
        return sum(min(side, c + half) - max(0, c - half) for c in range(side)) / side

    expected = mean_side(32, 8) * mean_side(24, 8)
    area = holes(16, (32, 24), 20000).sum((1, 2)).float()
    assert expected < 16 * 16
    assert float(area.mean()) == pytest.approx(expected, rel=0.01)


def test_a_square_as_large_as_the_image_is_refused() -> None:
    """Before: 16 pixels on images of 8x8 made every training image black, and nothing was said."""
    setting = setting_of(make_data(), Recipe())
    with pytest.raises(UsageError, match=r"length=16 hides whole images of 8x8; .* e\.g\. cutout:4"):
        parse_regularizer("cutout").check_setting(setting)
    parse_regularizer("cutout:7").check_setting(setting)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dtype_and_memory_format_stay(dtype: torch.dtype) -> None:
    images = torch.randn(4, 3, 8, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    changed, _ = parse_regularizer("cutout:4").batch(images, torch.zeros(4), Draws(torch.Generator(), 4), 10)
    assert changed.dtype == dtype
    assert changed.is_contiguous(memory_format=torch.channels_last)
