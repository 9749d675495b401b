"""Calibration by hand and against torchmetrics."""

from __future__ import annotations

import json
import math

import pytest
import torch

from convswap.errors import UsageError
from convswap.measure.robustness import calibration


def test_by_hand() -> None:
    """Four answers of confidence 0.8, three of them right: off by 0.05; one of 0.6, wrong: off by 0.6."""
    chances = torch.tensor([[0.8, 0.2]] * 4 + [[0.4, 0.6]])
    labels = torch.tensor([0, 0, 0, 1, 0])
    found = calibration(chances.log(), labels, bins=10)
    assert found.ece == pytest.approx((4 * 0.05 + 0.6) / 5)
    assert found.mce == pytest.approx(0.6)
    assert found.nll == pytest.approx(-(3 * math.log(0.8) + math.log(0.2) + math.log(0.4)) / 5)
    assert found.brier == pytest.approx((3 * 0.08 + 1.28 + 0.72) / 5)
    assert found.counts == (0, 0, 0, 0, 0, 0, 1, 0, 4, 0)
    assert found.accuracies[8] == pytest.approx(0.75)
    assert found.confidences[8] == pytest.approx(0.8)
    assert found.accuracies[0] is None
    assert found.edges[0] == 0
    assert found.edges[-1] == 1
    assert json.loads(json.dumps(found.as_dict()))["counts"][8] == 4


def test_torchmetrics_agrees() -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    generator = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(500, 7, generator=generator), torch.randint(0, 7, (500,), generator=generator)
    found = calibration(logits, labels)
    for norm, value in (("l1", found.ece), ("max", found.mce)):
        assert value == pytest.approx(
            float(multiclass_calibration_error(logits, labels, 7, n_bins=15, norm=norm)), abs=1e-6
        )
    assert sum(found.counts) == 500


def test_certain_and_right() -> None:
    found = calibration(torch.eye(3) * 1000, torch.arange(3))
    assert (found.ece, found.nll, found.brier) == (0, 0, 0)
    assert found.counts[-1] == 3


def test_wrong_arguments() -> None:
    with pytest.raises(UsageError, match="logits of shape"):
        calibration(torch.zeros(2, 3), torch.zeros(3).long())
    with pytest.raises(UsageError, match="bins=0"):
        calibration(torch.zeros(2, 3), torch.zeros(2).long(), bins=0)
    with pytest.raises(UsageError, match="3 classes"):
        calibration(torch.zeros(2, 3), torch.tensor([0, 3]))


@pytest.mark.parametrize("bins", [5, 10, 15, 20])
def test_a_confidence_on_an_edge_belongs_to_the_bin_above(bins: int) -> None:
    for index in range(bins // 2, bins):
        chance = index / bins
        logits = torch.tensor([[math.log(chance), math.log(1 - chance)]], dtype=torch.float64)
        counts = calibration(logits, torch.tensor([0]), bins=bins).counts
        above = max(index, bins - index)  # the predicted class is the likelier one
        assert counts[above] == 1, (index, counts)
