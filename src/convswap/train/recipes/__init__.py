"""Recipes: what a training does, as frozen data, and the functions that return named ones."""

from .all_cnn import all_cnn_augmented_recipe, all_cnn_recipe
from .binary import binary_recipe
from .defaults import default_recipe, digits_recipe, fine_tune_recipe, folder_recipe, small_image_recipe
from .named import NAMED_RECIPES
from .recipe import Recipe
from .regularized import regularized

__all__ = [
    "NAMED_RECIPES",
    "Recipe",
    "all_cnn_augmented_recipe",
    "all_cnn_recipe",
    "binary_recipe",
    "default_recipe",
    "digits_recipe",
    "fine_tune_recipe",
    "folder_recipe",
    "regularized",
    "small_image_recipe",
]
