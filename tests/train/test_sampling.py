from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from convswap.data import ArrayImages, Data
from convswap.errors import DataError
from convswap.train.batches import generator_for
from convswap.train.preflight import check_training
from convswap.train.sampling import balanced_order, class_weights, order_of, weights_of

from .conftest import make_data, make_model, make_recipe

LABELS = torch.tensor([0] * 90 + [1] * 9 + [2])
NAMES = ("ant", "bee", "cat")


def uneven() -> Data:
    data = make_data(count=100)
    assert isinstance(data.train, ArrayImages)
    return replace(data, train=ArrayImages(data.train.images, LABELS), class_names=NAMES)


def test_weights_balance_the_classes() -> None:
    weights = class_weights(LABELS, NAMES)
    assert weights.tolist() == pytest.approx([100 / 270, 100 / 27, 100 / 3])
    assert float(weights[LABELS].mean()) == pytest.approx(1.0)
    assert weights_of(uneven(), make_recipe(), torch.device("cpu")) is None
    found = weights_of(uneven(), make_recipe(class_weights="balanced"), torch.device("cpu"))
    assert found is not None
    assert torch.equal(found, weights)


def test_a_balanced_order_draws_every_class_and_image_equally_often() -> None:
    draws = torch.cat([balanced_order(LABELS, NAMES, generator_for(0, epoch, "order")) for epoch in range(200)])
    share = torch.bincount(LABELS[draws], minlength=3) / len(draws)
    assert share.tolist() == pytest.approx([1 / 3] * 3, abs=0.015)
    bees = torch.bincount(draws, minlength=100)[90:99] / len(draws)
    assert bees.tolist() == pytest.approx([1 / 27] * 9, abs=0.008)
    assert torch.bincount(draws, minlength=100)[:90].min() > 0


def test_the_order_comes_from_the_seed() -> None:
    first, again, other = (balanced_order(LABELS, NAMES, generator_for(seed, 1, "order")) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert order_of(uneven(), make_recipe()) is None
    order = order_of(uneven(), make_recipe(sampling="balanced"))
    assert order is not None
    assert torch.equal(order(generator_for(0, 1, "order")), first)


@pytest.mark.parametrize("knob", ["class_weights", "sampling"])
def test_a_class_without_images_is_named(knob: str) -> None:
    data = replace(uneven(), num_classes=4, class_names=(*NAMES, "dog"))
    with pytest.raises(DataError, match="class 'dog' has no training image"):
        check_training(make_model(classes=4), data, make_recipe(**{knob: "balanced"}), "cpu")
