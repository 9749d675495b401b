"""The losses for mixed labels and uneven classes, against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from convswap.errors import UsageError
from convswap.regularizers import REGULARIZERS
from convswap.train import Recipe
from convswap.train.losses import binary_cross_entropy, cross_entropy

LOGITS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([0, 2, 1, 1, 0])
WEIGHTS = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_one_sigmoid_per_class(smoothing):
    expected = []
    for row, label in zip(LOGITS, LABELS, strict=True):
        total = 0.0
        for c in range(3):
            target = smoothing / 3 + (1 - smoothing) * (c == int(label))
            p = torch.sigmoid(row[c])
            total = total - target * p.log() - (1 - target) * (1 - p).log()
        expected.append(total / 3)
    found = binary_cross_entropy(LOGITS, LABELS, "none", label_smoothing=smoothing)
    torch.testing.assert_close(found, torch.stack(expected))
    torch.testing.assert_close(binary_cross_entropy(LOGITS, LABELS, label_smoothing=smoothing), found.mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("loss", [binary_cross_entropy, cross_entropy])
def test_class_weights_of_one_class_are_its_label(loss, smoothing):
    hot = F.one_hot(LABELS, 3).double()
    torch.testing.assert_close(
        loss(LOGITS, hot, label_smoothing=smoothing), loss(LOGITS, LABELS, label_smoothing=smoothing)
    )


def test_an_image_counts_its_class_and_a_mixed_one_the_mean_of_both():
    plain = F.cross_entropy(LOGITS, LABELS, reduction="none")
    torch.testing.assert_close(cross_entropy(LOGITS, LABELS, "none", weights_C=WEIGHTS), plain * WEIGHTS[LABELS])
    mixed = 0.3 * F.one_hot(LABELS, 3).double() + 0.7 * F.one_hot(LABELS.flip(0), 3).double()
    weight = 0.3 * WEIGHTS[LABELS] + 0.7 * WEIGHTS[LABELS.flip(0)]
    expected = -(mixed * LOGITS.log_softmax(1)).sum(1) * weight
    torch.testing.assert_close(cross_entropy(LOGITS, mixed, weights_C=WEIGHTS), expected.mean())


TOGETHER = [n for n, cls in REGULARIZERS.items() if cls().copies() > 1]


@pytest.mark.parametrize("name", [*TOGETHER, "jocor"])
def test_the_parts_of_a_step_must_not_be_separated(name):
    smoothing = {"label_smoothing": 0.0}
    with pytest.raises(UsageError, match=f"'{name}' with accumulate=2 is not allowed"):
        Recipe(regularize=(name,), accumulate=2, **smoothing)
    assert Recipe(regularize=(name,), **smoothing).regularize == (name,)
    assert Recipe(regularize=("self_distillation",), accumulate=2, **smoothing).accumulate == 2


def test_binary_cross_entropy_takes_mixed_labels_and_the_squared_hinge_does_not():
    assert Recipe(regularize=("mixup",), loss="binary_cross_entropy").regularize == ("mixup",)
    with pytest.raises(UsageError, match="'mixup' with loss='squared_hinge'"):
        Recipe(regularize=("mixup",), loss="squared_hinge", label_smoothing=0.0)
