"""`convswap recipes`."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import AsJson
from .streams import console

if TYPE_CHECKING:
    from ..train import NamedRecipe, Recipe

NAME = "recipes"
_WIDEST = 28


def run(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="One recipe, with the source of every number.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the recipes that --recipe takes: what each is for, its epochs and its optimizer.

    With a name: every field of the recipe, where its value comes from, and what the source does besides.

    \b
    Examples:
      convswap recipes
      convswap recipes cifar_paper
      convswap train --model cifar_resnet20 --data cifar10 --recipe cifar_paper --set epochs=20
    """
    from ..train import NAMED_RECIPES, named_recipe

    chosen = list(NAMED_RECIPES.values()) if name is None else [named_recipe(name)]
    if as_json:
        print(json.dumps([_as_dict(found) for found in chosen], indent=2))
    elif name is None:
        _print_table(chosen)
    else:
        print(card(chosen[0]))


def _as_dict(found: NamedRecipe) -> dict[str, object]:
    return {
        "name": found.name,
        "what_for": found.what_for,
        "recipe": found.recipe().as_dict(),
        "sources": dict(found.sources),
        "left_out": list(found.left_out),
    }


def card(found: NamedRecipe) -> str:
    """One recipe in full, as plain text."""
    lines = [f"{found.name}: {found.what_for}", ""]
    rows = [(field, _value(value), source) for field, value, source in found.rows()]
    fields = max(len(field) for field, _, _ in rows)
    values = max(len(value) for _, value, _ in rows if len(value) <= _WIDEST)
    indent = " " * (2 + fields + 2 + values + 2)
    for field, value, source in rows:
        start = f"  {field:<{fields}}  {value:<{values}}  "
        if len(value) > values:  # a long list stands above its source
            lines += textwrap.wrap(start, 110, subsequent_indent=" " * (2 + fields + 2))
            start = indent
        lines += textwrap.wrap(source, 110, initial_indent=start, subsequent_indent=indent)
    lines.append("")
    for text in found.left_out:
        lines += textwrap.wrap(f"left out: {text}", 110, subsequent_indent="  ")
    lines += ["every other field is off, see convswap.train.Recipe; one field changes by --set FIELD=VALUE"]
    return "\n".join(lines)


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value)


def _print_table(chosen: list[NamedRecipe]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("recipe", "what for", "epochs", "optimizer")
    table.columns[0].no_wrap = True
    for found in chosen:
        recipe = found.recipe()
        table.add_row(found.name, escape(found.what_for), str(recipe.epochs), _optimizer(recipe), end_section=True)
    console().print(table)
    print(
        "auto, the default, chooses among digits, small_image, folder and fine_tune by data and starting weights.\n"
        "One recipe with the source of every number: convswap recipes NAME"
    )


def _optimizer(recipe: Recipe) -> str:
    return f"{recipe.optimizer} {recipe.learning_rate:g}, {recipe.schedule}, batch {recipe.batch_size}"
