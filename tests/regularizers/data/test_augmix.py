"""AugMix: three versions of each image, and the divergence of their answers."""

from __future__ import annotations

import pytest
import torch
from small_training import make_data, make_model
from torch.nn import functional as F

from convswap.regularizers import Draws, parse_regularizer, parse_regularizers
from convswap.regularizers.data.augmix import divergence
from convswap.train import Recipe, regularized
from convswap.train.objective import build_objective
from convswap.train.regularization import setting_of


def test_the_divergence_is_that_of_jensen_and_shannon() -> None:
    """JSD = H(mean of p) - mean of H(p)."""
    logits = [torch.randn(5, 4, dtype=torch.float64) for _ in range(3)]
    chances = [F.softmax(one, 1) for one in logits]
    middle = sum(chances) / 3

    def entropy(p: torch.Tensor) -> torch.Tensor:
        return -(p * p.log()).sum(1)

    want = (entropy(middle) - sum(map(entropy, chances)) / 3).mean()
    assert float(divergence(logits)) == pytest.approx(float(want))
    assert float(divergence([logits[0]] * 3)) == pytest.approx(0, abs=1e-12)


def test_the_batch_holds_every_image_and_two_mixtures() -> None:
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    draws = Draws(torch.Generator().manual_seed(0), 4)
    changed = parse_regularizer("augmix").pixels(images, draws)
    clean, first, second = changed.chunk(3)
    assert torch.equal(clean, images)
    for mixture, other in ((first, images), (second, images), (first, second)):
        assert not torch.equal(mixture, other)


def test_the_loss_is_that_of_the_clean_images_and_the_divergence() -> None:
    recipe = regularized(Recipe(label_smoothing=0.2), ["augmix:weight=5"])
    setting = setting_of(make_data(), recipe)
    objective = build_objective(recipe, parse_regularizers(recipe.regularize), make_model(), setting)
    logits, labels = torch.randn(6, 3), torch.tensor([1, 2])
    loss, clean, counted = objective.step(lambda x: x, logits, labels)
    want = F.cross_entropy(logits[:2], labels, label_smoothing=0.2) + 5 * divergence(list(logits.chunk(3)))
    torch.testing.assert_close(loss, want)
    assert torch.equal(clean, logits[:2])
    assert counted is labels
