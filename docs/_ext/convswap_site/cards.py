"""The unit cards of `docs/units/`, with what the registry, the class and the records add to them in the site."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from convswap.units import UnitSpec, get_unit, list_units

_HEADING = re.compile(r"^## (?P<name>[a-z][a-z0-9_]*)[ \t]*\n", re.MULTILINE)
_FENCED = re.compile(r"^(`{3,}|~{3,}).*?^\1[`~]*\s*?$", re.DOTALL | re.MULTILINE)
_STANDS_FOR = {"convolution": "a convolution", "block": "a residual block", "stage": "a stage", "stem": "the stem"}
_FUSES_TO = {"conv": "one plain convolution", "cheaper": "a cheaper equal module", "none": "nothing simpler"}


def split_cards(page: str) -> tuple[str, dict[str, str]]:
    """What stands before the first card, and the text under each `## unit_name` by name; other headings end no card."""
    fenced = [range(*match.span()) for match in _FENCED.finditer(page)]
    units = set(list_units())
    starts = [
        match
        for match in _HEADING.finditer(page)
        if match["name"] in units and not any(match.start() in block for block in fenced)
    ]
    if not starts:
        return page, {}
    ends = [match.start() for match in starts[1:]] + [len(page)]
    cards = {match["name"]: page[match.end() : end].strip() for match, end in zip(starts, ends, strict=True)}
    return page[: starts[0].start()], cards


def find_cards(folder: Path) -> dict[str, Path]:
    """The page that holds each registered unit's card.

    Raises:
        LookupError: a unit has no card, or two.
    """
    found: dict[str, Path] = {}
    for page in sorted(folder.glob("*.md")):
        for name in split_cards(page.read_text(encoding="utf-8"))[1]:
            if name in found:
                raise LookupError(f"unit {name!r} has two cards: in {found[name].name} and {page.name}")
            found[name] = page
    missing = [name for name in list_units() if name not in found]
    if missing:
        raise LookupError(f"no card (a heading '## NAME') in {folder} for: {', '.join(missing)}")
    return found


def facts(spec: UnitSpec) -> dict[str, str]:
    """The registry row in words, as Markdown."""
    paper = spec.paper if str(spec.year) in spec.paper else f"{spec.paper} ({spec.year})"
    whose = "as in the paper" if spec.placement == "paper" else "inferred: the paper does not say"
    rows = {
        "paper": linked(paper),
        "kind": f"{spec.kind} unit, stands for {_STANDS_FOR[spec.replaces]}",
        "warm start": spec.warm_start,
        "fuses to": _FUSES_TO[spec.fusion],
        "default places": f"`{spec.default_where}` ({whose})",
    }
    if spec.train_eval != "same":
        drawn = {"batch_norm": "uses batch statistics", "stochastic": "draws at random"}
        rows["training"] = drawn[spec.train_eval]
    if spec.gradient != "exact":
        rows["gradient"] = "straight-through estimator"
    if spec.no_weight_decay:
        rows["not decayed"] = ", ".join(f"`{name}`" for name in sorted(spec.no_weight_decay))
    return rows


def linked(paper: str) -> str:
    """A paper's name with every arXiv number turned into a link."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)


def constructor(spec: UnitSpec, width: int = 88) -> str:
    """The class with every argument and its default, options after the `*`, as one would write them."""
    parameters = inspect.signature(spec.cls).parameters.values()
    words = []
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        if parameter.name in ("device", "dtype"):
            continue
        given = parameter.default is not parameter.empty
        words.append(f"{parameter.name}={parameter.default!r}" if given else parameter.name)
    if words[-1] == "*":
        words.pop()
    return _wrapped(f"{spec.cls.__name__}(", words, width)


def _wrapped(opening: str, words: list[str], width: int) -> str:
    whole = f"{opening}{', '.join(words)})"
    if len(whole) <= width:
        return whole
    lines, line = [opening], "   "
    for word in words:
        if len(line) + len(word) + 2 > width:
            lines.append(line)
            line = "   "
        line += f" {word},"
    return "\n".join([*lines, line, ")"])


def table(rows: list[list[Any]], align: str = "") -> str:
    """A Markdown table; the first row is its head. `align` holds `l` or `r` for each column."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    marks = [("---:" if side == "r" else "---") for side in align.ljust(len(rows[0]), "l")]
    lines = [cells[0], marks, *cells[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def enriched(page: str, pictures: dict[str, list[tuple[str, str]]], measured: dict[str, str]) -> str:
    """A family's page with, in every card, the registry row, pictures, constructor and measured rows.

    Args:
        page: the text of `docs/units/FAMILY.md`.
        pictures: for each unit the paths of its pictures with a sentence that says what they show.
        measured: for each unit Markdown with what the records say; may be missing.
    """
    before, cards = split_cards(page)
    parts = [before.rstrip()]
    for name, text in cards.items():
        spec = get_unit(name)
        parts += [f"(unit-{name})=\n## {name}", spec.summary[0].upper() + spec.summary[1:] + ".", _row(spec)]
        about, heading, rest = text.partition("\n### ")
        parts.append(about.rstrip())
        parts += [
            f"```{{figure}} {path}\n:alt: {alt}\n:class: unit-picture\n\n{alt}\n```" for path, alt in pictures[name]
        ]
        parts.append(heading.lstrip() + rest)
        parts.append(f"### Constructor\n\n```python\n{constructor(spec)}\n```")
        parts.append(f"Described in full: {{py:class}}`convswap.units.{spec.cls.__name__}`.")
        if name in measured:
            parts.append(f"### From the records\n\n{measured[name]}")
    return "\n\n".join(parts) + "\n"


def _row(spec: UnitSpec) -> str:
    return "```{list-table}\n:class: unit-facts\n:stub-columns: 1\n\n" + "\n".join(
        f"* - {name}\n  - {value}" for name, value in facts(spec).items()
    ) + "\n```"  # fmt: skip


def grid(pictures: dict[str, list[tuple[str, str]]], names: list[str]) -> str:
    """Cards that lead to the units' cards, each with its first picture."""
    cells = []
    for name in names:
        spec, (path, alt) = get_unit(name), pictures[name][0]
        cells.append(
            f":::{{grid-item-card}} {name}\n:link: unit-{name}\n:link-type: ref\n:img-top: {path}\n:img-alt: {alt}\n"
            f":class-img-top: unit-thumb\n\n{spec.summary}\n:::"
        )
    return "::::{grid} 1 2 3 3\n:gutter: 3\n\n" + "\n\n".join(cells) + "\n::::"
