"""`convswap regularizers`."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import AsJson
from .streams import console

if TYPE_CHECKING:
    from ..regularizers import Regularizer

NAME = "regularizers"
_FIELDS = ("name", "family", "place", "paper", "summary", "cost")


def run(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One method in full.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the regularisers for --regularize: what each does, where it acts, what it costs, and those not offered.

    \b
    Examples:
      convswap regularizers
      convswap regularizers cutmix
      convswap compare --regularize cutout,mixup:alpha=0.2
    """
    from ..regularizers import NOT_OFFERED, get_regularizer, list_regularizers, options_of

    classes = [get_regularizer(one) for one in ([name] if name is not None else list_regularizers())]
    if as_json:
        facts: list[dict[str, Any]] = [{field: getattr(cls, field) for field in _FIELDS} for cls in classes]
        rows = [row | {"options": options_of(cls)} for row, cls in zip(facts, classes, strict=True)]
        print(json.dumps(rows, indent=2))
        return
    if name is not None:
        print(card(classes[0]))
        return
    _print_table(classes)
    print("not offered:")
    for missing, reason in NOT_OFFERED.items():
        print(f"  {missing}: {reason}")
    print("one method in full: convswap regularizers NAME")


def card(cls: type[Regularizer]) -> str:
    """Everything about one method: its facts, its options, and the docstring of its class."""
    from ..regularizers import PLACES

    lines = [
        f"{cls.name}: {cls.summary}",
        f"  family   {cls.family}",
        f"  acts at  {PLACES[cls.place]}",
        f"  paper    {cls.paper}",
        f"  cost     {cls.cost}",
        f"  options  {_options(cls)}",
        "",
        inspect.cleandoc(cls.__doc__ or ""),
    ]
    return "\n".join(lines).rstrip()


def _options(cls: type[Regularizer]) -> str:
    from ..regularizers import options_of

    return ", ".join(f"{name}={value}" for name, value in options_of(cls).items()) or "none"


def _print_table(classes: list[type[Regularizer]]) -> None:
    """The methods as a table that fits 80 columns."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("family", "method", "what it does")
    table.columns[1].no_wrap = True
    for cls in classes:
        lines = [cls.summary, f"paper: {cls.paper}", f"options: {_options(cls)}", f"cost: {cls.cost}"]
        table.add_row(cls.family, cls.name, escape("\n".join(lines)), end_section=True)
    console().print(table)
