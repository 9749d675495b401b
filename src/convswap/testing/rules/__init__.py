"""The rules of the contract, by theme, and how to choose among them."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from ...errors import unknown_name
from ..rule import Rule
from . import (
    blocks,
    compiling,
    constructor,
    cost,
    distributed,
    empty,
    export,
    fusion,
    geometry,
    gradients,
    in_place,
    meta,
    precision,
    saving,
    state,
    threads,
    warm_start,
)

_THEMES = (
    *(constructor, geometry, blocks, gradients, in_place, precision, state, meta, warm_start),
    *(fusion, saving, empty, compiling, export, threads, cost, distributed),
)

#: Every rule by name, in the order they run.
RULES: dict[str, Rule] = {
    value.name: value for theme in _THEMES for value in vars(theme).values() if isinstance(value, Rule)
}


def list_rules(pattern: str = "*") -> list[str]:
    """Names of the rules that match a wildcard, in the order they run."""
    return [name for name in RULES if fnmatchcase(name, pattern)]


def select(rules: str | Iterable[str], skip: str | Iterable[str] = ()) -> list[Rule]:
    """The rules that match any of the patterns and none of those to skip.

    Raises:
        UsageError: a pattern matches nothing. The message gives the nearest names.
    """
    wanted, left_out = (_matching(patterns) for patterns in (rules, skip))
    return [rule for name, rule in RULES.items() if name in wanted - left_out]


def _matching(patterns: str | Iterable[str]) -> set[str]:
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        names = list_rules(pattern)
        if not names:
            raise unknown_name("rule", pattern, RULES)
        found.update(names)
    return found


def rules_table() -> str:
    """The rules as a Markdown table, as docs/testing.md prints it."""
    rows = [f"| `{r.name}` | {', '.join(r.kinds)} | {r.sentence} |" for r in RULES.values()]
    return "\n".join(["| rule | kinds of unit | what the unit must do |", "|---|---|---|", *rows])
