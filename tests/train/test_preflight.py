from __future__ import annotations

from dataclasses import replace

import pytest

from convswap.errors import UsageError
from convswap.train import fit
from convswap.train.preflight import check_training

from .conftest import make_data, make_model, make_recipe


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"precision": "fp16"}, "precision='fp16' needs a CUDA GPU.*give precision='bf16'"),
        ({"patience": 2}, "patience=2 needs a validation part, and 'stripes' has none"),
        ({"freeze": "layer1.*"}, "matches none"),
        ({"freeze": "all"}, "freeze='all' leaves no parameter to train"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused_at_once(fields: dict[str, object], message: str) -> None:
    model, data, recipe = make_model(), make_data(), make_recipe(**fields)
    for refused in (
        lambda: check_training(model, data, recipe, "cpu"),
        lambda: fit(model, data, recipe, seed=0, progress=False, device="cpu"),
    ):
        with pytest.raises(UsageError, match=message):
            refused()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_recipe_that_fits_passes() -> None:
    data = make_data()
    recipe = make_recipe(patience=2, freeze="0", class_weights="balanced")
    check_training(make_model(), replace(data, validation=data.test), recipe, "cpu")


def test_a_model_without_parameters_to_train_is_named() -> None:
    model = make_model().requires_grad_(False)
    with pytest.raises(UsageError, match="the model has no parameter to train"):
        check_training(model, make_data(), make_recipe(), "cpu")
