"""CutMix against the authors' boxes, and its labels against the pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from convswap.regularizers import Draws, parse_regularizer
from convswap.regularizers.data.cutmix import box_of, cutmix


def test_boxes_are_the_authors(golden: Callable[[str], dict[str, Any]]) -> None:
    """Their first axis is called W; the reference is made on squares, where only the order of the pair differs."""
    rows = golden("regularisation")["case_cutmix_boxes"]["output"]
    assert len(rows) == 20
    for _, share, first, second, last_first, last_second, adjusted in rows.tolist():
        # The centre is not recorded: where a side was not clipped, the box gives it away.
        half = int(32 * (1 - share) ** 0.5) // 2
        centre = [low + half if low > 0 else high - half for low, high in ((first, last_first), (second, last_second))]
        box = box_of(share, (int(centre[0]), int(centre[1])), (32, 32))
        assert box == (first, second, last_first, last_second)
        images, labels = torch.zeros(2, 3, 32, 32), torch.tensor([0, 1])
        _, targets = cutmix(images, labels, box, 2)
        assert float(targets[0, 0]) == pytest.approx(adjusted, abs=1e-6)


def test_the_label_follows_the_pixels() -> None:
    images = torch.stack([torch.zeros(1, 7, 9), torch.ones(1, 7, 9)])
    before = images.clone()
    draws = Draws(torch.Generator().manual_seed(0), 2)
    method = parse_regularizer("cutmix:probability=1")
    seen = set()
    for _ in range(300):
        mixed, targets = method.batch(images, torch.tensor([0, 1]), draws, 2)
        for row in (0, 1):
            assert float(targets[row, 1]) == pytest.approx(float(mixed[row].mean()), abs=1e-6)
        pasted = mixed[0, 0] == 1
        if pasted.any():
            rows, columns = (pasted.any(axis).nonzero().flatten() for axis in (1, 0))
            box = pasted[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert box.all()
            assert box.sum() == pasted.sum()
        seen.add(int(pasted.sum()))
    assert torch.equal(images, before)
    assert len(seen) > 10


def test_only_a_part_of_the_batches_is_mixed() -> None:
    draws = Draws(torch.Generator().manual_seed(0), 2)
    method = parse_regularizer("cutmix:probability=0.3")
    images, labels = torch.randn(2, 1, 8, 8), torch.tensor([0, 1])
    mixed = [method.batch(images, labels, draws, 2)[1].ndim == 2 for _ in range(1000)]
    assert sum(mixed) == pytest.approx(300, abs=50)


def test_one_of_both_mixes_each_batch() -> None:
    """Mixup leaves no pixel as it was; CutMix leaves each pixel as one of the two was."""
    images = torch.stack([torch.full((1, 8, 8), 2.0), torch.full((1, 8, 8), 5.0)])
    draws = Draws(torch.Generator().manual_seed(0), 2)
    method = parse_regularizer("mixup_cutmix:mixup_alpha=5")
    kinds = []
    for _ in range(400):
        mixed, targets = method.batch(images, torch.tensor([0, 1]), draws, 2)
        kinds.append(bool(((mixed == 2) | (mixed == 5)).all()))
        assert float(mixed[0].mean()) == pytest.approx(float(targets[0] @ torch.tensor([2.0, 5.0])), abs=1e-5)
    assert sum(kinds) == pytest.approx(200, abs=50)
