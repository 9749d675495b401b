"""What a recipe's fields may hold, alone and together. Every fault is one line that names the nearest fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import UsageError, check_choice, check_number, check_whole
from .choices import CHOICES

_WHOLE = {"epochs": 1, "batch_size": 1, "crop_padding": 0, "accumulate": 1, "ema_every": 1, "patience": 0}
_BOOLEANS = ("nesterov", "flip", "channels_last", "compile", "decay_all")
_ABOVE_0 = (lambda v: v > 0, "a number above 0")
_BELOW_1 = (lambda v: 0 <= v < 1, "a number from 0 to below 1")
_NUMBERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "learning_rate": _ABOVE_0,
    "momentum": _BELOW_1,
    "weight_decay": (lambda v: v >= 0, "a number of at least 0"),
    "label_smoothing": _BELOW_1,
    "warmup": (lambda v: 0 <= v <= 1, "a fraction from 0 to 1"),
    "initial_learning_rate": (lambda v: 0 <= v <= 1, "a fraction of the peak, from 0 to 1"),
    "final_learning_rate": (lambda v: 0 <= v <= 1, "a number from 0 to 1"),
    "gamma": (lambda v: 0 < v < 1, "a number above 0 and below 1"),
    "power": _ABOVE_0,
    "ema": _BELOW_1,
    "layer_decay": (lambda v: 0 < v <= 1, "a factor above 0, at most 1"),
    "norm_bias_scale": _ABOVE_0,
}
_OPTIONAL: dict[str, tuple[Callable[[Any], bool], str]] = {
    "beta2": (lambda v: 0 <= v < 1, "a number from 0 to below 1, or None"),
    "epsilon": (lambda v: v > 0, "a number above 0, or None"),
    "clip_norm": (lambda v: v > 0, "a number above 0, or None"),
}


def check_fields(recipe: Any) -> None:
    """Check each field of a recipe by itself.

    Raises:
        UsageError: a value is not allowed.
    """
    for name, least in _WHOLE.items():
        check_whole(name, getattr(recipe, name), least)
    for name, (allowed, wanted) in _NUMBERS.items():
        check_number(name, getattr(recipe, name), allowed, wanted)
    for name, (allowed, wanted) in _OPTIONAL.items():
        if getattr(recipe, name) is not None:
            check_number(name, getattr(recipe, name), allowed, wanted)
    for name, choices in CHOICES.items():
        check_choice(name, getattr(recipe, name), choices)
    for name in _BOOLEANS:
        if not isinstance(getattr(recipe, name), bool):
            raise UsageError(f"{name}={getattr(recipe, name)!r} is not allowed; it must be True or False")
    if not isinstance(recipe.freeze, str):
        raise UsageError(f"freeze={recipe.freeze!r} is not allowed; give a selection such as 'layer[12].*'")
    _check_milestones(recipe.milestones)


def check_together(recipe: Any) -> None:
    """Check the fields of a recipe against each other.

    Raises:
        UsageError: two fields contradict each other.
    """
    for check in (_check_optimizer, _check_loss, _check_schedule, _check_steps, _check_batch):
        check(recipe)


def _check_optimizer(recipe: Any) -> None:
    if recipe.optimizer == "sgd" and recipe.nesterov and recipe.momentum == 0:
        raise UsageError("nesterov=True needs a momentum above 0; give momentum=0.9 or nesterov=False")
    for name in ("beta2", "epsilon"):
        if recipe.optimizer == "sgd" and getattr(recipe, name) is not None:
            raise UsageError(f"optimizer='sgd' has no {name}; leave {name} out, or name another optimizer")


def _check_loss(recipe: Any) -> None:
    if recipe.loss == "squared_hinge" and recipe.label_smoothing > 0:
        raise UsageError("loss='squared_hinge' has no label_smoothing; give label_smoothing=0.0")
    if recipe.class_weights != "none" and recipe.loss != "cross_entropy":
        raise UsageError(f"loss={recipe.loss!r} has no class_weights; give sampling='balanced' instead")
    if recipe.class_weights != "none" and recipe.sampling != "shuffle":
        raise UsageError(
            "class_weights='balanced' and sampling='balanced' would correct the same twice; give one of them"
        )


def _check_schedule(recipe: Any) -> None:
    if recipe.schedule == "exponential" and recipe.final_learning_rate == 0:
        raise UsageError("schedule='exponential' never reaches 0; give a final_learning_rate above 0, e.g. 3e-4")
    if recipe.schedule == "one_cycle" and not 0 < recipe.warmup < 1:
        raise UsageError(f"schedule='one_cycle' rises and falls; give a warmup between 0 and 1, not {recipe.warmup!r}")
    if recipe.initial_learning_rate > 0 and recipe.warmup == 0:
        raise UsageError("initial_learning_rate is where the warm-up begins; give a warmup above 0, e.g. 0.1")


def _check_milestones(milestones: Any) -> None:
    if not isinstance(milestones, list | tuple):
        raise UsageError(f"milestones={milestones!r} is not allowed; give fractions such as (0.5, 0.75)")
    for fraction in milestones:
        check_number("milestones", fraction, lambda v: 0 < v < 1, "fractions above 0 and below 1")
    if list(milestones) != sorted(set(milestones)):
        raise UsageError(f"milestones={milestones!r} is not allowed; each must be above the one before")


def _check_steps(recipe: Any) -> None:
    if (recipe.schedule == "steps") != bool(recipe.milestones):
        raise UsageError(
            f"schedule={recipe.schedule!r} with milestones={recipe.milestones!r} is not allowed; schedule='steps' "
            "needs milestones, e.g. (0.5, 0.75), and the other schedules have none"
        )
    if recipe.schedule == "steps" and recipe.final_learning_rate > 0:
        raise UsageError("schedule='steps' has no final_learning_rate; give gamma and milestones instead")


def _check_batch(recipe: Any) -> None:
    if recipe.batch_size % recipe.accumulate:
        divisors = [n for n in range(1, recipe.batch_size + 1) if recipe.batch_size % n == 0]
        nearest = min(divisors, key=lambda n: abs(n - recipe.accumulate))
        raise UsageError(
            f"accumulate={recipe.accumulate} does not divide batch_size={recipe.batch_size}; give {nearest}"
        )
    if recipe.ema_every > 1 and recipe.ema == 0:
        raise UsageError("ema_every says how often the average of the weights is taken; give ema, e.g. 0.999")
