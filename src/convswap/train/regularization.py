"""The recipe's regularisers at work in one training: attached, asked at every step, and gone at its end."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Data
from ..regularizers import Active, Regularizer, Setting, overrides, parse_regularizers
from .freezing import frozen
from .objective import build_objective
from .recipes import Recipe
from .teacher import Teacher


class Regularization:
    """The methods of a recipe in one network.

    Args:
        recipe: the recipe.
        model: the network, on its device. Methods of the internal family are put into it.
        setting: what they may know.
        weights_C: how much an image of each class counts in the loss.

    Raises:
        UsageError: a method cannot work with these data or inside this network.
    """

    def __init__(self, recipe: Recipe, model: nn.Module, setting: Setting, weights_C: Tensor | None = None) -> None:
        methods = parse_regularizers(recipe.regularize)
        for method in methods:
            method.check_setting(setting)
            method.check_model(model, setting)
        self._active: dict[str, Active] = {}
        try:
            for method in methods:
                if overrides(method, Regularizer.attach):
                    self._active[method.name] = method.attach(model, setting)
            self.objective = build_objective(recipe, methods, model, setting, weights_C)
        except BaseException:
            self.detach()
            raise
        self._active["objective"] = self.objective
        self._parts = list(self._active.values()) if methods else []
        owned = {name: part.companion for name, part in self._active.items() if part.companion is not None}
        self.companions = nn.ModuleDict(owned)

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first step of an epoch."""
        for part in self._parts:
            part.begin_epoch(epoch)

    def progress(self, done: float) -> None:
        """Called before each step."""
        for part in self._parts:
            part.progress(done)

    def detach(self) -> None:
        """Leave the network without a trace, whatever one of the methods raises."""
        parts, self._active = self._active, {}
        with ExitStack() as stack:
            for part in parts.values():
                stack.callback(part.detach)


def setting_of(data: Data, recipe: Recipe, **more: Any) -> Setting:
    """The setting of a training with these data and this recipe."""
    return Setting(
        num_classes=data.num_classes,
        channels=data.channels,
        image_size=data.image_size,
        batch_size=min(recipe.batch_size, len(data.train)),
        epochs=recipe.epochs,
        **more,
    )


def check_regularizers(recipe: Recipe, model: nn.Module, data: Data, teacher: nn.Module | None = None) -> None:
    """Put the recipe's regularisers into a network and take them out again, and ask the teacher for an answer.

    Raises:
        UsageError: one of them cannot work with these data or inside this network.
    """
    device = torch.device("cpu")
    ready = None if teacher is None else Teacher.of(teacher, data, recipe, device)
    with frozen(model, recipe.freeze):
        Regularization(recipe, model, setting_of(data, recipe, teacher=ready)).detach()
