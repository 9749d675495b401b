"""Progressive self-distillation: who the teacher is, and how much it counts."""

from __future__ import annotations

import copy

import torch
from small_training import make_data, make_model
from torch.nn import functional as F

from convswap.regularizers import parse_regularizers
from convswap.train import Recipe, regularized
from convswap.train.objective import build_objective
from convswap.train.regularization import setting_of

IMAGES, LABELS = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 2, 1, 0])


def test_the_network_of_the_last_epoch_teaches() -> None:
    recipe = regularized(Recipe(epochs=4), ["self_distillation:0.6"])
    model = make_model()
    setting = setting_of(make_data(), recipe)
    objective = build_objective(recipe, parse_regularizers(recipe.regularize), model, setting)
    objective.begin_epoch(1)
    logits = model(IMAGES)
    assert torch.equal(objective.step(lambda x: logits, IMAGES, LABELS).loss, F.cross_entropy(logits, LABELS))

    for epoch in (2, 3):
        with torch.no_grad():
            model[0].weight.add_(0.1)
        model.train()
        teacher = copy.deepcopy(model).eval()
        objective.begin_epoch(epoch)
        assert model.training
        with torch.no_grad():
            model[0].weight.mul_(1.5)  # the teacher stays what it was
            answer = F.softmax(teacher(IMAGES), 1)
        part = 0.6 * epoch / 4
        for targets in (LABELS, F.softmax(torch.randn(6, 3), 1)):
            weights = F.one_hot(LABELS, 3).float() if targets.ndim == 1 else targets
            want = -(((1 - part) * weights + part * answer) * F.log_softmax(logits, 1)).sum(1).mean()
            loss, _, labels = objective.step(lambda x: logits, IMAGES, targets)
            torch.testing.assert_close(loss, want)
            assert torch.equal(labels, weights.argmax(1))
