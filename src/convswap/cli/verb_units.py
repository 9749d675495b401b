"""`convswap units`."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import AsJson
from .options import options_of
from .streams import console

if TYPE_CHECKING:
    from ..units import UnitSpec

NAME = "units"
_FIELDS = (
    *("name", "kind", "replaces", "paper", "year"),
    *("warm_start", "fusion", "placement", "default_where", "summary"),
)


def run(
    pattern: Annotated[
        str, typer.Argument(metavar="[PATTERN]", help="Name or wildcard on the names, e.g. 'circle*'.")
    ] = "*",
    as_json: AsJson = False,
) -> None:
    """List the registered units: what each is, its default places, what a swap keeps and what fusing gives.

    \b
    Examples:
      convswap units
      convswap units circle
      convswap units 'circle*' --json
    """
    from ..errors import unknown_name
    from ..units import get_unit, list_units

    names = list_units(pattern)
    if not names:
        raise unknown_name("unit", pattern, list_units())
    specs = [get_unit(name) for name in names]
    if as_json:
        rows = [{f: getattr(spec, f) for f in _FIELDS} | {"options": options_of(spec)} for spec in specs]
        print(json.dumps(rows, indent=2))
        return

    if len(specs) == 1:
        print(card(specs[0]))
        return
    print_table(specs)


def card(spec: UnitSpec) -> str:
    """Everything about one unit: its row, its options, and the docstring of its class."""
    options = ", ".join(f"{name}={value!r}" for name, value in options_of(spec).items()) or "none"
    lines = [
        f"{spec.name}: {spec.summary}",
        f"  paper           {_paper(spec)}",
        f"  kind            {spec.kind}",
        f"  stands for      a {spec.replaces}",
        f"  warm start      {spec.warm_start}",
        f"  fuses to        {spec.fusion}",
        f"  default places  {_places(spec)}",
        f"  options         {options}",
        f"  class           {spec.origin}",
        "",
        inspect.cleandoc(spec.cls.__doc__ or ""),
    ]
    return "\n".join(lines).rstrip()


def print_table(specs: list[UnitSpec]) -> None:
    """The units as a table that fits 80 columns."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("unit", "what it is", "warm start", "fuses to", "default places")
    table.columns[0].no_wrap = True
    for spec in specs:
        table.add_row(
            spec.name,
            escape(f"{spec.summary}\n{_paper(spec)}"),
            spec.warm_start,
            spec.fusion,
            escape(_places(spec)),
            end_section=True,
        )
    console().print(table)
    print(
        "warm start: how much of a trained convolution's function a swap keeps. inferred: the paper does not say\n"
        "where to put the unit; this is our reading. One unit in full: convswap units NAME"
    )


def _paper(spec: UnitSpec) -> str:
    return spec.paper if str(spec.year) in spec.paper else f"{spec.paper} ({spec.year})"


def _places(spec: UnitSpec) -> str:
    places = spec.default_where if spec.replaces == "convolution" else f"{spec.replaces}s: {spec.default_where}"
    return places if spec.placement == "paper" else f"{places} (inferred)"
