"""Random erasing: how often, how much, where, and with what."""

from __future__ import annotations

import pytest
import torch

from convswap.regularizers import Draws, parse_regularizer


def erased(text: str, images: torch.Tensor) -> torch.Tensor:
    before = images.clone()
    draws = Draws(torch.Generator().manual_seed(0), len(images))
    changed, targets = parse_regularizer(text).batch(images, torch.zeros(len(images)), draws, 10)
    assert torch.equal(images, before)
    assert targets.ndim == 1
    return changed


def test_rectangles_have_the_areas_and_ratios_asked_for() -> None:
    changed = erased("random_erasing:probability=0.5", torch.ones(1500, 3, 40, 60))
    holes = changed[:, 0] == 0
    assert torch.equal(changed == 0, holes[:, None].expand_as(changed))
    areas = []
    for hole in holes[holes.flatten(1).any(1)]:
        rows, columns = (hole.any(axis).nonzero().flatten() for axis in (1, 0))
        height, width = len(rows), len(columns)
        assert hole.sum() == height * width
        assert height < 40
        assert width < 60
        assert 0.25 <= height / width <= 4
        areas.append(height * width / 2400)
    assert len(areas) == pytest.approx(750, abs=80)
    assert min(areas) >= 0.018
    assert max(areas) <= 0.42
    assert sum(areas) / len(areas) == pytest.approx(0.21, abs=0.03)


def test_noise_is_normal() -> None:
    changed = erased("random_erasing:probability=1:fill=random", torch.full((200, 3, 20, 20), 99.0))
    noise = changed[changed != 99]
    assert len(noise) > 10000
    assert float(noise.mean()) == pytest.approx(0, abs=0.03)
    assert float(noise.std()) == pytest.approx(1, abs=0.03)


def test_dtype_and_memory_format_stay() -> None:
    images = torch.randn(8, 3, 12, 12).bfloat16().contiguous(memory_format=torch.channels_last)
    changed = erased("random_erasing:probability=1", images)
    assert changed.dtype == torch.bfloat16
    assert changed.is_contiguous(memory_format=torch.channels_last)
