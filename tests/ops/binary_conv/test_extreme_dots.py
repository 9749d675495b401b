"""Thresholds that only the largest or the smallest possible sum reaches."""

from __future__ import annotations

import pytest
import torch

from convswap.ops.binary_conv.thresholds import ALWAYS, NEVER, dot_thresholds


@pytest.mark.parametrize("largest", [1, 9, 64, 4608])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_ends_are_asked(largest: int, sign: float) -> None:
    """`sign * dot + bias >= 0`, with a bias that lets through: the farthest sum alone, all but it, all, none."""
    bias = torch.tensor([-float(largest), largest - 0.5, float(largest), -largest - 0.5])
    threshold, flip = dot_thresholds(torch.full((4,), sign), bias, False, None, None, largest)
    dots = torch.tensor([-largest, -largest + 1, largest - 1, largest])
    found = (dots[:, None] >= threshold) ^ flip
    assert torch.equal(found, sign * dots[:, None] + bias >= 0)
    assert threshold[2:].tolist() == [ALWAYS, NEVER]
    assert threshold[0] == (largest if sign > 0 else -largest + 1)
