"""FixRes: smaller training images, and a network that must take them."""

from __future__ import annotations

import pytest
import torch
from small_training import make_data, make_model
from torch import nn

from convswap.errors import UsageError
from convswap.regularizers import Draws, parse_regularizer
from convswap.train import Recipe, regularized
from convswap.train.regularization import Regularization, setting_of


def test_images_become_smaller_and_stay_what_they_are() -> None:
    images = torch.full((2, 3, 32, 48), 2.5).bfloat16().contiguous(memory_format=torch.channels_last)
    smaller, _ = parse_regularizer("fixres:0.75").batch(images, torch.zeros(2), Draws(torch.Generator(), 2), 10)
    assert smaller.shape == (2, 3, 24, 36)
    assert smaller.dtype == torch.bfloat16
    assert smaller.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(smaller, torch.full_like(smaller, 2.5))


def test_halving_is_the_antialiased_mean() -> None:
    """Bilinear with antialiasing at one half: the weights 1, 3, 3, 1 over eight, in each direction."""
    line = torch.randn(1, 1, 1, 8).expand(1, 1, 8, 8).clone()
    smaller, _ = parse_regularizer("fixres:0.5").batch(line, torch.zeros(1), Draws(torch.Generator(), 1), 10)
    row = line[0, 0, 0]
    want = [(row[k - 1] + 3 * row[k] + 3 * row[k + 1] + row[k + 2]) / 8 for k in (2, 4)]
    torch.testing.assert_close(smaller[0, 0, 0, 1:3], torch.stack(want))


@pytest.mark.parametrize("ratio", ["0.99", "0.01"])
def test_a_ratio_that_changes_nothing_or_leaves_nothing_is_refused(ratio: str) -> None:
    method = parse_regularizer(f"fixres:{ratio}")
    with pytest.raises(UsageError, match="give another ratio"):
        method.check_setting(setting_of(make_data(), Recipe()))


def test_a_network_of_one_size_is_refused_before_training() -> None:
    recipe, data = regularized(Recipe(), ["fixres"]), make_data()
    Regularization(recipe, make_model(), setting_of(data, recipe)).detach()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(UsageError, match="images of 6x6, which the network does not take"):
        Regularization(recipe, model, setting_of(data, recipe))
