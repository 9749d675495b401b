from __future__ import annotations

import json
from dataclasses import replace

import pytest

from convswap.errors import UsageError
from convswap.train import (
    NAMED_RECIPES,
    Recipe,
    all_cnn_augmented_recipe,
    all_cnn_recipe,
    binary_recipe,
    default_recipe,
)

from .conftest import make_data


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", 2.5),
        ("epochs", True),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", "0.1"),
        ("momentum", 1.0),
        ("weight_decay", -1e-4),
        ("label_smoothing", 1.0),
        ("warmup", 1.5),
        ("final_learning_rate", 2.0),
        ("crop_padding", -1),
        ("schedule", "step"),
        ("padding_mode", "circular"),
        ("precision", "fp8"),
        ("optimizer", "lion"),
        ("loss", "hinge"),
        ("flip", 1),
        ("compile", "yes"),
        ("gamma", 1.0),
        ("milestones", 0.5),
        ("power", 0.0),
        ("initial_learning_rate", 1.5),
        ("beta2", 1.0),
        ("epsilon", 0.0),
        ("decay_all", 1),
        ("clip_norm", -1.0),
        ("accumulate", 0),
        ("ema", 1.0),
        ("ema_every", 0),
        ("layer_decay", 0.0),
        ("norm_bias_scale", 0.0),
        ("freeze", None),
        ("patience", -1),
        ("class_weights", "auto"),
        ("sampling", "uneven"),
        ("flip_mode", "always"),
    ],
)
def test_a_bad_value_is_named(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{field}={value!r}"):
        Recipe(**{field: value})  # type: ignore[arg-type]


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(UsageError, match="momentum"):
        Recipe(momentum=0.0)
    assert Recipe(momentum=0.0, nesterov=False).momentum == 0


def test_round_trip_through_json() -> None:
    recipe = Recipe(epochs=7, learning_rate=0.05, padding_mode="zeros")
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_later_fields_leave_old_descriptions_as_they_were() -> None:
    first = "epochs batch_size learning_rate momentum nesterov weight_decay label_smoothing warmup schedule "
    first += "final_learning_rate crop_padding padding_mode flip precision channels_last compile"
    assert Recipe().as_dict().keys() == set(first.split())
    recipe = binary_recipe(epochs=3)
    assert recipe.as_dict()["optimizer"] == "adam"
    assert Recipe.from_dict(recipe.as_dict()) == recipe


@pytest.mark.parametrize("name", NAMED_RECIPES)
def test_named_recipes_survive_json(name: str) -> None:
    recipe = NAMED_RECIPES[name].recipe()
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
    assert recipe.as_dict() == json.loads(json.dumps(recipe.as_dict()))


def test_contradictions_are_named() -> None:
    with pytest.raises(UsageError, match="needs milestones"):
        Recipe(schedule="steps")
    with pytest.raises(UsageError, match="the other schedules have none"):
        Recipe(milestones=(0.5,))
    with pytest.raises(UsageError, match="above the one before"):
        Recipe(schedule="steps", milestones=(0.5, 0.5))
    with pytest.raises(UsageError, match=r"milestones=1\.0"):
        Recipe(schedule="steps", milestones=(0.5, 1.0))
    with pytest.raises(UsageError, match="no final_learning_rate"):
        Recipe(schedule="steps", milestones=(0.5,), final_learning_rate=0.1)
    with pytest.raises(UsageError, match="label_smoothing=0"):
        Recipe(loss="squared_hinge")
    with pytest.raises(UsageError, match="final_learning_rate above 0"):
        Recipe(schedule="exponential")
    assert Recipe(optimizer="adam", momentum=0.0).momentum == 0  # nesterov is SGD's alone


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beta2": 0.9}, "'sgd' has no beta2"),
        ({"epsilon": 1e-3}, "'sgd' has no epsilon"),
        ({"class_weights": "balanced", "loss": "binary_cross_entropy"}, "give sampling='balanced' instead"),
        ({"class_weights": "balanced", "sampling": "balanced"}, "give one of them"),
        ({"schedule": "one_cycle", "warmup": 0.0}, "warmup between 0 and 1"),
        ({"initial_learning_rate": 0.1, "warmup": 0.0}, "give a warmup above 0"),
        ({"batch_size": 100, "accumulate": 3}, r"accumulate=3 does not divide batch_size=100; give [24]$"),
        ({"batch_size": 100, "accumulate": 101}, "give 100"),
        ({"ema_every": 2}, "give ema, e.g. 0.999"),
    ],
)
def test_what_does_not_go_together_names_the_way_out(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe(**fields)  # type: ignore[arg-type]


def test_the_binary_recipe_falls_exponentially() -> None:
    recipe = binary_recipe()
    rates = [recipe.learning_rate_at(step, 500) for step in range(501)]
    assert rates[0] == 1e-3
    assert rates[500] == pytest.approx(3e-7)
    assert rates[250] == pytest.approx((1e-3 * 3e-7) ** 0.5)


def test_the_all_cnn_recipe_falls_at_epochs_200_250_and_300_of_350() -> None:
    recipe = all_cnn_recipe()
    steps_per_epoch = 50_000 // recipe.batch_size
    rates = [recipe.learning_rate_at(epoch * steps_per_epoch, 350 * steps_per_epoch) for epoch in range(350)]
    assert rates == pytest.approx([0.05] * 200 + [0.005] * 50 + [0.0005] * 50 + [0.00005] * 50)
    assert recipe.learning_rate_at(200 * steps_per_epoch - 1, 350 * steps_per_epoch) == 0.05
    short = replace(recipe, epochs=7)
    assert [short.learning_rate_at(epoch, 7) for epoch in range(7)] == rates[::50]


def test_the_all_cnn_recipe_is_the_papers() -> None:
    recipe = all_cnn_recipe()
    assert (recipe.epochs, recipe.optimizer, recipe.momentum, recipe.nesterov) == (350, "sgd", 0.9, False)
    assert (recipe.weight_decay, recipe.label_smoothing, recipe.warmup) == (1e-3, 0.0, 0.0)
    assert (recipe.crop_padding, recipe.flip) == (0, False)
    augmented = all_cnn_augmented_recipe()
    assert augmented == replace(recipe, crop_padding=5, flip=True)


def test_an_unknown_field_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean 'epochs'"):
        Recipe.from_dict({"epoch": 3})


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_schedule_rises_to_the_peak_and_falls_to_the_end(schedule: str) -> None:
    recipe = Recipe(learning_rate=0.4, warmup=0.25, final_learning_rate=0.1, schedule=schedule)  # type: ignore[arg-type]
    total = 40
    rates = [recipe.learning_rate_at(step, total) for step in range(total)]
    assert rates[0] == pytest.approx(0.04)
    assert max(rates) == rates[9] == rates[10] == pytest.approx(0.4)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert recipe.learning_rate_at(total, total) == pytest.approx(0.04)


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_schedules_without_a_rise_or_a_fall(warmup: float) -> None:
    recipe = Recipe(warmup=warmup)
    rates = [recipe.learning_rate_at(step, 10) for step in range(10)]
    assert all(0 < rate <= recipe.learning_rate for rate in rates)


def test_default_recipes_suit_the_data() -> None:
    digits = default_recipe(make_data(size=8))
    assert not digits.flip
    assert digits.crop_padding < 8
    cifar = default_recipe(make_data(size=32))
    assert cifar == Recipe()
    tuned = default_recipe(make_data(size=32), pretrained=True, epochs=2)
    assert tuned.epochs == 2
    assert tuned.learning_rate < cifar.learning_rate / 5
    assert replace(cifar, epochs=8).epochs == 8
