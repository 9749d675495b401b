"""Training and evaluation: one loop, described by a recipe, the same for every unit."""

from .evaluation import Evaluation, evaluate
from .loop import fit
from .losses import squared_hinge
from .optimizers import build_optimizer, set_learning_rate
from .parameters import constrain, learning_rate_scales, parameter_groups, undecayed_names
from .recipes import (
    NAMED_RECIPES,
    Recipe,
    all_cnn_recipe,
    binary_recipe,
    default_recipe,
    digits_recipe,
    fine_tune_recipe,
    folder_recipe,
    regularized,
    small_image_recipe,
)
from .result import FitResult
from .shift_adamax import ShiftAdaMax

__all__ = [
    "NAMED_RECIPES",
    "Evaluation",
    "FitResult",
    "Recipe",
    "ShiftAdaMax",
    "all_cnn_recipe",
    "binary_recipe",
    "build_optimizer",
    "constrain",
    "default_recipe",
    "digits_recipe",
    "evaluate",
    "fine_tune_recipe",
    "fit",
    "folder_recipe",
    "learning_rate_scales",
    "parameter_groups",
    "regularized",
    "set_learning_rate",
    "small_image_recipe",
    "squared_hinge",
    "undecayed_names",
]
