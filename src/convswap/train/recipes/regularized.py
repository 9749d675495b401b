"""A recipe with other regularisers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ...regularizers import parse_regularizers, replaces_smoothing, text_of
from .recipe import Recipe


def regularized(recipe: Recipe, methods: Iterable[str]) -> Recipe:
    """The recipe with these regularisers in place of its own.

    A method that smooths labels takes the place of the recipe's `label_smoothing`.

    Raises:
        UsageError: an unknown method, or methods that cannot be combined.

    >>> regularized(Recipe(), ["label_smoothing:0.2"]).label_smoothing
    0.2
    """
    parsed = parse_regularizers(methods)
    smoothing = 0.0 if replaces_smoothing(parsed) else recipe.label_smoothing
    return replace(recipe, regularize=tuple(map(text_of, parsed)), label_smoothing=smoothing)
