"""What a step computes: the recipe's loss, hard or soft labels, and a smoothing that changes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from convswap.regularizers import Objective, parse_regularizers
from convswap.train import Recipe, regularized
from convswap.train.objective import build_objective
from convswap.train.regularization import setting_of

from .conftest import make_data, make_model

IMAGES, LABELS = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])


def objective_of(recipe: Recipe) -> Objective:
    setting = setting_of(make_data(), recipe)
    return build_objective(recipe, parse_regularizers(recipe.regularize), make_model(), setting)


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(loss="squared_hinge", label_smoothing=0.0)])
def test_the_plain_step_is_the_recipes_loss(recipe: Recipe) -> None:
    objective = objective_of(recipe)
    loss, logits, labels = objective.step(lambda x: 2 * x, IMAGES, LABELS)
    assert torch.equal(logits, 2 * IMAGES)
    assert labels is LABELS
    assert torch.equal(loss, objective.loss(logits, LABELS))
    torch.testing.assert_close(objective.loss(logits, LABELS, reduction="none").mean(), loss)
    assert objective.loss(logits, LABELS, reduction="none").shape == (6,)


def test_soft_labels_count_by_their_largest_weight() -> None:
    targets = torch.tensor([[0.7, 0.3, 0.0], [0.2, 0.0, 0.8]])
    loss, logits, labels = objective_of(Recipe(label_smoothing=0.0)).step(lambda x: x, IMAGES[:2], targets)
    assert labels.tolist() == [0, 2]
    torch.testing.assert_close(loss, -(targets * F.log_softmax(logits, 1)).sum(1).mean())


def test_soft_labels_are_smoothed_once() -> None:
    targets = torch.tensor([[0.7, 0.3, 0.0], [0.2, 0.0, 0.8]])
    smooth = 0.9 * targets + 0.1 / 3
    loss, logits, _ = objective_of(Recipe(label_smoothing=0.1)).step(lambda x: x, IMAGES[:2], targets)
    torch.testing.assert_close(loss, -(smooth * F.log_softmax(logits, 1)).sum(1).mean())


def test_tsla_smooths_first_and_not_after() -> None:
    objective = objective_of(regularized(Recipe(), ["tsla:epsilon=0.3:until=0.25"]))
    for done, smoothing in ((0.0, 0.3), (0.2499, 0.3), (0.25, 0.0), (0.9, 0.0)):
        objective.progress(done)
        want = F.cross_entropy(IMAGES, LABELS, label_smoothing=smoothing)
        assert torch.equal(objective.step(lambda x: x, IMAGES, LABELS).loss, want)
