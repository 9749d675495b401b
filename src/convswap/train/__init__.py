"""Training and evaluation: one loop, described by a recipe, the same for every unit."""

from .evaluate import Evaluation, evaluate
from .loop import FitResult, fit
from .parameters import parameter_groups, undecayed_names
from .recipe import Recipe, default_recipe, digits_recipe, fine_tune_recipe, folder_recipe, small_image_recipe

__all__ = [
    "Evaluation",
    "FitResult",
    "Recipe",
    "default_recipe",
    "digits_recipe",
    "evaluate",
    "fine_tune_recipe",
    "fit",
    "folder_recipe",
    "parameter_groups",
    "small_image_recipe",
    "undecayed_names",
]
