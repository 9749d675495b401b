"""The recipes that the command line knows by name."""

from __future__ import annotations

from collections.abc import Callable

from .all_cnn import all_cnn_augmented_recipe, all_cnn_recipe
from .binary import binary_recipe
from .recipe import Recipe

#: recipes that the command line knows by name
NAMED_RECIPES: dict[str, Callable[[], Recipe]] = {
    "binary": binary_recipe,
    "all_cnn": all_cnn_recipe,
    "all_cnn_augmented": all_cnn_augmented_recipe,
}
