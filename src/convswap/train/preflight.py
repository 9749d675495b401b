"""What is checked before a training starts, so that nothing fails hours later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..data import Data
from ..errors import UsageError
from .freezing import frozen
from .precision import resolve_device, resolve_precision
from .recipes import Recipe
from .sampling import class_weights, labels_of


def check_training(model: nn.Module, data: Data, recipe: Recipe, device: str, teacher: nn.Module | None = None) -> None:
    """Refuse a recipe that this model, these data or this device cannot follow. Nothing is changed.

    Raises:
        UsageError: the device is not there or has not this precision, `freeze` matches nothing or leaves nothing to
            train, `patience` has no validation part to watch, or there is a teacher that nobody listens to.
        DataError: classes are to be balanced, and one has no training image.
    """
    resolve_precision(recipe.precision, resolve_device(device))
    if teacher is not None and not listens(recipe.as_dict()):
        raise UsageError(
            "a teacher is given, but the recipe does not listen to it; add the regulariser 'logit_distillation' "
            "(--distill mse)"
        )
    with frozen(model, recipe.freeze):
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UsageError(
                f"freeze={recipe.freeze!r} leaves no parameter to train; leave some layers out"
                if recipe.freeze
                else "the model has no parameter to train; unfreeze some, or use evaluate()"
            )
    if recipe.patience and data.validation is None:
        raise UsageError(
            f"patience={recipe.patience} needs a validation part, and {data.name!r} has none; hold one out "
            "(--hold-out 0.1), give the data one (a folder valid/, arrays x_val and y_val), or give patience=0"
        )
    if "balanced" in (recipe.class_weights, recipe.sampling):
        class_weights(labels_of(data.train), data.class_names)


def listens(recipe: Mapping[str, Any]) -> bool:
    """Does a recipe, as `Recipe.as_dict()`, listen to a teacher?"""
    return any(text.partition(":")[0] == "logit_distillation" for text in recipe.get("regularize", ()))
