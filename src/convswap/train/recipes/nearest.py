"""Which named recipe a recipe is, or is nearest to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .registry import NAMED_RECIPES


def describe_recipe(values: Mapping[str, Any]) -> str:
    """A recipe's plain values (`Recipe.as_dict()`) in words: a name, and the fields that differ from it.

    Of several names with as few differences above none, the first in the registry counts.

    >>> from . import cifar_paper_recipe
    >>> describe_recipe(cifar_paper_recipe().as_dict())
    'cifar_paper'
    >>> describe_recipe(cifar_paper_recipe().as_dict() | {"epochs": 3, "ema": 0.9})
    'cifar_paper with ema=0.9, epochs=3'
    >>> describe_recipe(NAMED_RECIPES["minnet"].recipe().as_dict())  # the same numbers from two sources
    'cifar_paper_200 or minnet'
    """
    found = {name: _differences(values, named.recipe().as_dict()) for name, named in NAMED_RECIPES.items()}
    if same := [name for name, differences in found.items() if not differences]:
        return " or ".join(same)
    name = min(found, key=lambda name: len(found[name]))
    return f"{name} with {', '.join(found[name])}"


def _differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    keys = sorted(mine.keys() | theirs.keys())
    return [f"{key}={mine.get(key, 'default')}" for key in keys if mine.get(key) != theirs.get(key)]
