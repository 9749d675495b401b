"""Recipes by name, with the source of every number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from ...errors import UsageError, check_known, unknown_name
from .recipe import Recipe

Build = Callable[..., Recipe]
TECHNICAL = ("precision", "channels_last", "compile")
"""Fields that say how fast a training computes and not what it computes. They need no source at their defaults."""


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe that a command line can name.

    Attributes:
        name: what `--recipe` takes.
        build: the function that returns it. Its defaults are the recipe.
        what_for: networks and data that it was written for.
        sources: from each field to where its value comes from, or why it has it.
        left_out: what the source does besides, and this recipe does not.
    """

    name: str
    build: Build
    what_for: str
    sources: Mapping[str, str]
    left_out: tuple[str, ...] = ()

    def recipe(self) -> Recipe:
        """The recipe itself."""
        return self.build()

    def rows(self) -> list[tuple[str, Any, str]]:
        """(field, value, source) of every field that has a source, in the order of `Recipe`."""
        recipe = self.recipe()
        named = [field.name for field in fields(Recipe) if field.name in self.sources]
        return [(name, getattr(recipe, name), self.sources[name]) for name in named]


NAMED_RECIPES: dict[str, NamedRecipe] = {}
"""Every recipe by its name."""


def named(
    name: str, *, what_for: str, sources: Mapping[str, str], left_out: tuple[str, ...] = ()
) -> Callable[[Build], Build]:
    """Decorate a function without required arguments: the command line then knows its recipe.

    Args:
        name: for `--recipe`.
        what_for: networks and data it was written for.
        sources: where the value of each field comes from. One text may stand for several fields, with spaces between.
        left_out: what the source does besides.

    Raises:
        UsageError: the name is taken, or a field has no source, two of them, or does not exist.
    """

    def keep(build: Build) -> Build:
        if name in NAMED_RECIPES or name == "auto":
            raise UsageError(f"recipe {name!r} exists already; choose another name")
        found = NamedRecipe(name, build, what_for, MappingProxyType(_spread(name, sources)), left_out)
        _check_sources(found)
        NAMED_RECIPES[name] = found
        return build

    return keep


def _spread(name: str, sources: Mapping[str, str]) -> dict[str, str]:
    spread: dict[str, str] = {}
    for group, text in sources.items():
        for key in group.split():
            if key in spread:
                raise UsageError(f"recipe {name!r} has two sources of {key!r}; keep one")
            spread[key] = text
    return spread


def _check_sources(found: NamedRecipe) -> None:
    check_known("recipe field", found.sources, [field.name for field in fields(Recipe)])
    recipe, default = found.recipe(), Recipe()
    for field in fields(Recipe):
        same = getattr(recipe, field.name) == getattr(default, field.name)
        # An older field always has an effect. A newer one has none at its default.
        needs = not same or (field.name not in TECHNICAL and not field.metadata)
        if needs and not found.sources.get(field.name, "").strip():
            raise UsageError(f"recipe {found.name!r} gives no source of {field.name}={getattr(recipe, field.name)!r}")


def named_recipe(name: str) -> NamedRecipe:
    """The recipe of this name.

    Raises:
        UsageError: there is none. The message has the nearest names.
    """
    if name not in NAMED_RECIPES:
        raise unknown_name("recipe", name, NAMED_RECIPES, otherwise="see convswap recipes")
    return NAMED_RECIPES[name]
