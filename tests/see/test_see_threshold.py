"""A cosine of exactly the threshold is enough."""

from __future__ import annotations

import torch

from convswap.see.classes import CLASSES, classify_kernels


def test_the_threshold_itself_is_reached() -> None:
    identity = torch.zeros(1, 3, 3)
    identity[0, 1, 1] = 2.0
    found = classify_kernels(identity, threshold=1.0)
    assert found.similarity[0, 1] == 1.0
    assert CLASSES[int(found.labels[0])] == "identity"
    assert CLASSES[int(classify_kernels(torch.zeros(1, 3, 3), threshold=1.0).labels[0])] == "other"
