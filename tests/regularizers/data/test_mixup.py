"""Mixup against its formula, written out image by image."""

from __future__ import annotations

import pytest
import torch

from convswap.regularizers import Draws, parse_regularizer
from convswap.regularizers.data.mixing import mix_targets, partners
from convswap.regularizers.data.mixup import mixup


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_pairs_are_neighbours(count: int) -> None:
    found = partners(count, torch.device("cpu")).tolist()
    assert found == [(i + 1 if i + 1 < count else 0) if i % 2 == 0 else i - 1 for i in range(count)]


def test_images_and_labels_are_mixed_alike() -> None:
    images, labels = torch.randn(4, 3, 2, 2, dtype=torch.float64), torch.tensor([2, 0, 1, 1])
    before = images.clone()
    mixed, targets = mixup(images, labels, 0.3, 3)
    assert torch.equal(images, before)
    for i, j in ((0, 1), (1, 0), (2, 3), (3, 2)):
        torch.testing.assert_close(mixed[i], 0.3 * images[i] + 0.7 * images[j])
        want = torch.zeros(3)
        want[labels[i]] += 0.3
        want[labels[j]] += 0.7
        torch.testing.assert_close(targets[i], want)


def test_class_weights_are_mixed_again() -> None:
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    mixed = mix_targets(weights, torch.tensor([1, 0]), 0.25, 3)
    torch.testing.assert_close(mixed, torch.tensor([[0.125, 0.125, 0.75], [0.375, 0.375, 0.25]]))


def test_the_share_comes_from_the_beta_distribution() -> None:
    images, labels = torch.stack([torch.ones(1, 1, 1), torch.zeros(1, 1, 1)]), torch.tensor([0, 1])
    draws = Draws(torch.Generator().manual_seed(0), 2)
    method = parse_regularizer("mixup:0.4")
    shares = []
    for _ in range(2000):
        mixed, targets = method.batch(images, labels, draws, 2)
        shares.append(float(mixed[0]))
        assert float(targets[0, 0]) == pytest.approx(shares[-1])
    found = torch.tensor(shares)
    assert float(found.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(found.var()) == pytest.approx(1 / (4 * 1.8), rel=0.1)
