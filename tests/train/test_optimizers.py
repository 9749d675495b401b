"""What a recipe says of steps and loss arrives there, field by field."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from timm.loss import BinaryCrossEntropy
from timm.optim import Lamb, RMSpropTF
from torch.nn import functional as F

from convswap.train import Recipe, fit
from convswap.train.losses import binary_cross_entropy, squared_hinge, training_loss
from convswap.train.optimizers import build_optimizer, set_learning_rate
from convswap.train.recipes.choices import CHOICES
from convswap.train.shift_adamax import ShiftAdaMax

from .conftest import Bounded, make_data, make_model, make_recipe

CPU = torch.device("cpu")
CLASSES = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "shift_adamax": ShiftAdaMax,
    "rmsprop": torch.optim.RMSprop,
    "rmsprop_tf": RMSpropTF,
    "lamb": Lamb,
}


def test_every_optimizer_is_tried_here() -> None:
    assert set(CHOICES["optimizer"]) == CLASSES.keys()


@pytest.mark.parametrize("name", CLASSES)
def test_an_optimizer_has_the_recipes_numbers(name: str) -> None:
    recipe = Recipe(optimizer=name, learning_rate=0.03, momentum=0.7, weight_decay=0.02, nesterov=True)  # type: ignore[arg-type]
    optimizer = build_optimizer(make_model(), recipe, CPU)
    assert type(optimizer) is CLASSES[name]
    decays = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert decays == [(0.03, 0.02), (0.03, 0.0)]
    if name == "sgd":
        assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0.7, True)
    elif name.startswith("rmsprop"):
        assert (optimizer.defaults["momentum"], optimizer.defaults["alpha"]) == (0.7, 0.9)
    else:
        assert optimizer.defaults["betas"] == (0.7, 0.999)
    if name != "sgd":
        other = build_optimizer(make_model(), replace(recipe, beta2=0.6, epsilon=0.5), CPU).defaults
        assert other["eps"] == 0.5
        assert other.get("alpha") == 0.6 or other["betas"] == (0.7, 0.6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_steps_by_the_recipe(nesterov: bool) -> None:
    recipe = Recipe(learning_rate=0.03, momentum=0.7, nesterov=nesterov, weight_decay=0.02)
    weight = torch.nn.Parameter(torch.tensor([[1.0]]))
    module = torch.nn.Module()
    module.register_parameter("weight", weight)
    optimizer = build_optimizer(module, recipe, CPU)
    want, velocity = 1.0, 0.0
    for gradient in (0.5, -0.25):
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        slope = gradient + 0.02 * want
        velocity = 0.7 * velocity + slope
        want -= 0.03 * (slope + 0.7 * velocity if nesterov else velocity)
        assert float(weight) == pytest.approx(want)


def test_the_rate_of_a_step_keeps_the_scale_of_each_group() -> None:
    optimizer = build_optimizer(Bounded(), Recipe(learning_rate=0.2), CPU)
    set_learning_rate(optimizer, 0.1)
    rates = {len(group["params"]): group["lr"] for group in optimizer.param_groups}
    assert sorted(rates.values()) == [0.1, 0.1, pytest.approx(0.3)]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_the_cross_entropy_has_the_recipes_smoothing(smoothing: float) -> None:
    logits, labels = torch.randn(5, 4), torch.tensor([0, 3, 1, 1, 2])
    want = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    assert training_loss(Recipe(label_smoothing=smoothing))(logits, labels) == want


def test_the_squared_hinge_is_the_one_of_its_formula() -> None:
    logits, labels = torch.randn(3, 4, dtype=torch.float64), torch.tensor([2, 0, 2])
    want = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        for index, value in enumerate(row):
            want += max(0.0, 1 - (1 if index == label else -1) * value) ** 2 / 12
    assert float(squared_hinge(logits, labels)) == pytest.approx(want)
    assert training_loss(Recipe(loss="squared_hinge", label_smoothing=0.0)) is squared_hinge


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_binary_cross_entropy_is_timms(smoothing: float) -> None:
    logits, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2])
    recipe = Recipe(loss="binary_cross_entropy", label_smoothing=smoothing)
    want = BinaryCrossEntropy(smoothing=smoothing)(logits, labels)
    assert float(training_loss(recipe)(logits, labels)) == pytest.approx(float(want))
    assert training_loss(recipe)(logits, labels) == binary_cross_entropy(logits, labels, label_smoothing=smoothing)


def test_class_weights_multiply_the_loss_of_each_image() -> None:
    logits, labels, weights = torch.randn(4, 3), torch.tensor([0, 2, 2, 1]), torch.tensor([0.5, 2.0, 1.0])
    rows = zip(logits.split(1), labels.split(1), strict=True)
    each = [F.cross_entropy(row, label, label_smoothing=0.1) for row, label in rows]
    want = sum(float(weights[label]) * float(loss) for loss, label in zip(each, labels, strict=True)) / 4
    assert float(training_loss(Recipe(), weights)(logits, labels)) == pytest.approx(want)


def test_rmsprop_steps_as_in_its_formula() -> None:
    """v <- a v + (1 - a) g^2, then m <- b m + g / (sqrt(v) + e). TensorFlow's v begins at 1, with e under the root."""
    for name in ("rmsprop", "rmsprop_tf"):
        recipe = Recipe(optimizer=name, learning_rate=0.1, momentum=0.5, beta2=0.8, epsilon=0.01, weight_decay=0.0)  # type: ignore[arg-type]
        module = torch.nn.Module()
        module.register_parameter("weight", torch.nn.Parameter(torch.tensor([[1.0]])))
        optimizer = build_optimizer(module, recipe, CPU)
        want, mean, velocity = 1.0, float(name == "rmsprop_tf"), 0.0
        for gradient in (0.5, -0.25):
            module.weight.grad = torch.full((1, 1), gradient)
            optimizer.step()
            mean = 0.8 * mean + 0.2 * gradient**2
            root = (mean + 0.01) ** 0.5 if name == "rmsprop_tf" else mean**0.5 + 0.01
            velocity = 0.5 * velocity + gradient / root
            want -= 0.1 * velocity
            assert module.weight.item() == pytest.approx(want)


# A value of each field that must make another training than BASE's. A new field needs a line here.
BASE: dict[str, Any] = {"epochs": 2, "batch_size": 16, "learning_rate": 0.1, "precision": "fp32", "crop_padding": 1}
OTHER: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 24,
    "learning_rate": 0.09,
    "momentum": 0.5,
    "nesterov": False,
    "weight_decay": 0.01,
    "label_smoothing": 0.3,
    "warmup": 0.5,
    "schedule": "cosine",
    "final_learning_rate": 0.5,
    "crop_padding": 2,
    "padding_mode": "zeros",
    "flip": False,
    "precision": "bf16",
    "optimizer": "adamw",
    "loss": "squared_hinge",
    "milestones": (0.25,),
    "gamma": 0.5,
    "power": 2.0,
    "initial_learning_rate": 0.5,
    "beta2": 0.5,
    "epsilon": 0.1,
    "decay_all": True,
    "clip_norm": 0.1,
    "accumulate": 2,
    "ema": 0.5,
    "ema_every": 2,
    "layer_decay": 0.5,
    "norm_bias_scale": 4.0,
    "freeze": "3",
    "patience": 1,
    "class_weights": "balanced",
    "sampling": "balanced",
    "flip_mode": "alternating",
    "regularize": ("cutout:4",),
}
STEPS = {"schedule": "steps", "milestones": (0.75,)}
NEEDS: dict[str, dict[str, Any]] = {
    "loss": {"label_smoothing": 0.0},
    "milestones": STEPS,
    "gamma": STEPS,
    "initial_learning_rate": {"warmup": 0.7},
    "power": {"schedule": "poly"},
    "beta2": {"optimizer": "adam"},
    "epsilon": {"optimizer": "adam"},
    "ema_every": {"ema": 0.5},
    "patience": {"epochs": 4, "learning_rate": 2.0},
}
ELSEWHERE = {
    "channels_last": "the same numbers in another memory format (test_fit.test_precisions_and_memory_formats)",
    "compile": "the same numbers (test_fit.test_a_compiled_training_keeps_plain_names)",
}


def train(**changes: Any) -> torch.Tensor:
    if changes.get("loss") == "squared_hinge":
        changes["label_smoothing"] = 0.0
    model = make_model()
    data = replace(make_data(), flip=True)
    data = replace(data, validation=data.test)
    fit(model, data, make_recipe(**{**BASE, **changes}), seed=0, progress=False, device="cpu")
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_every_field_of_a_recipe_is_tried_here() -> None:
    assert {field.name for field in fields(Recipe)} == OTHER.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("field", OTHER)
def test_every_field_makes_a_difference(field: str) -> None:
    base = NEEDS.get(field, {})
    assert not torch.equal(train(**base), train(**{**base, field: OTHER[field]}))
