"""Recipes: what a training does, as frozen data, and the functions that return named ones."""

from .all_cnn import all_cnn_augmented_recipe, all_cnn_recipe
from .binary import binary_recipe
from .cifar import cifar_fast_recipe, cifar_paper_200_recipe, cifar_paper_recipe, cifar_quick_recipe
from .defaults import default_recipe, digits_recipe, fine_tune_recipe, folder_recipe, small_image_recipe
from .densenet import densenet_recipe, minnet_recipe
from .imagenet import imagenet_a2_recipe, imagenet_torchvision_recipe
from .mobilenetv2 import mobilenetv2_recipe
from .nearest import describe_recipe
from .niff import niff_recipe
from .pide import pide_recipe
from .recipe import Recipe
from .registry import NAMED_RECIPES, NamedRecipe, named, named_recipe
from .regularized import regularized
from .vgnet import vgnet_recipe

__all__ = [
    "NAMED_RECIPES",
    "NamedRecipe",
    "Recipe",
    "all_cnn_augmented_recipe",
    "all_cnn_recipe",
    "binary_recipe",
    "cifar_fast_recipe",
    "cifar_paper_200_recipe",
    "cifar_paper_recipe",
    "cifar_quick_recipe",
    "default_recipe",
    "densenet_recipe",
    "describe_recipe",
    "digits_recipe",
    "fine_tune_recipe",
    "folder_recipe",
    "imagenet_a2_recipe",
    "imagenet_torchvision_recipe",
    "minnet_recipe",
    "mobilenetv2_recipe",
    "named",
    "named_recipe",
    "niff_recipe",
    "pide_recipe",
    "regularized",
    "small_image_recipe",
    "vgnet_recipe",
]
