"""The rows of `tests/models/published/*.json`: read, checked for form, compared, and shown in `docs/networks.md`.

A file is a list of objects, one per network and source of a published number, with the keys of `Row`.
After adding or changing rows write the page anew: `python tests/models/published_table.py --update`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("published")
PAGE = Path(__file__).parents[2] / "docs" / "networks.md"
UPDATE = f"python tests/models/{Path(__file__).name} --update"

_COUNT = re.compile(r"(\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?) ?([KMGBT]?)")
_SCALES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
_SWAP_KEYS = {"unit", "where", "options"}


class RowError(Exception):
    """A row that is not what the format asks for."""


@dataclass(frozen=True)
class Published:
    """A number as it is printed: its value and the place of its last digit. 27.5M: 27,500,000 and 100,000."""

    text: str
    value: Decimal
    last_place: Decimal

    @classmethod
    def parse(cls, text: str) -> Published:
        """Read `27.5M`, `0.99M`, `217,082`, `4.47G` or `144M`."""
        match = _COUNT.fullmatch(text)
        if match is None:
            raise RowError(f"{text!r} is not a printed number; write it like 27.5M, 217,082 or 4.47G")
        digits, scale = match[1].replace(",", ""), Decimal(_SCALES[match[2]])
        decimals = len(digits.partition(".")[2])
        return cls(text, Decimal(digits) * scale, Decimal(10) ** -decimals * scale)

    def is_rounded(self, count: int) -> bool:
        """Does the count, rounded to the printed digits, give this number?"""
        return abs(count - self.value) <= self.last_place / 2

    def is_within(self, count: int, share: str) -> bool:
        """Is the count at most this share of the number away from it?"""
        return abs(count - self.value) <= self.value * Decimal(share)


@dataclass(frozen=True)
class Row:
    """One network and what is published about its size.

    Attributes:
        model, arguments, num_classes, in_channels: what `convswap.models.create_model` is called with.
        image_size: height and width at which the MACs are counted.
        swap: `{"unit": ..., "where": ... or null, "options": {...}}`, applied with start="fresh"; or None.
        parameters: the exact number; `trainable`: the exact number of those that train, None where all do.
        macs: the exact number (convolutions and linear layers), or None where it is not asserted.
        published_parameters, published_macs: the numbers as printed, or None.
        source: where they (or the exact ones) stand.
        reason: why a published number is not met; None where all are.
        chain: whether `remove_residuals` is applied. A row may leave the key out: no.
    """

    model: str
    arguments: dict[str, Any]
    num_classes: int
    in_channels: int
    image_size: list[int]
    swap: dict[str, Any] | None
    parameters: int
    trainable: int | None
    macs: int | None
    published_parameters: str | None
    published_macs: str | None
    source: str
    reason: str | None
    chain: bool = False

    @classmethod
    def read(cls, data: object) -> Row:
        """Check the keys and their types.

        Raises:
            RowError: names what is wrong.
        """
        if not isinstance(data, dict):
            raise RowError(f"a row is an object, got {type(data).__name__}")
        names = {field.name for field in fields(cls)}
        if missing := sorted(names - set(data) - {"chain"}):
            raise RowError(f"keys missing: {', '.join(missing)}")
        if unknown := sorted(set(data) - names):
            raise RowError(f"unknown keys: {', '.join(unknown)}; the keys are {', '.join(sorted(names))}")
        row = cls(**data)
        for wrong in row._wrong():
            raise RowError(wrong)
        return row

    def _wrong(self) -> Iterator[str]:
        for name in ("model", "source"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name).strip():
                yield f"{name}={getattr(self, name)!r} must be a text that is not empty"
        if not isinstance(self.arguments, dict):
            yield f"arguments={self.arguments!r} must be an object"
        for name in ("num_classes", "in_channels", "parameters", "trainable", "macs"):
            value = getattr(self, name)
            if not (_is_count(value) or (value is None and name in ("trainable", "macs"))):
                yield f"{name}={value!r} must be a whole number of at least 1"
        size = self.image_size
        if not (isinstance(size, list) and len(size) == 2 and all(map(_is_count, size))):
            yield f"image_size={size!r} must be [height, width]"
        if self.swap is not None and not (isinstance(self.swap, dict) and set(self.swap) == _SWAP_KEYS):
            yield f'swap={self.swap!r} must be null or {{"unit": ..., "where": ..., "options": {{...}}}}'
        if not isinstance(self.chain, bool) or (self.chain and self.swap is not None):
            yield f"chain={self.chain!r} must be true or false, and no swap beside it"
        for name in ("published_parameters", "published_macs"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                yield f"{name}={value!r} must be a text as printed, or null"
            elif value is not None:
                Published.parse(value)
        if self.reason is not None and not (isinstance(self.reason, str) and self.reason.strip()):
            yield f"reason={self.reason!r} must be null or a text that is not empty"

    @property
    def network(self) -> str:
        """What distinguishes the network, in one line."""
        text = self.model + _call(self.arguments)
        if self.swap is not None:
            where = {"where": self.swap["where"]} if self.swap["where"] is not None else {}
            text += f" + {self.swap['unit']}{_call(where | self.swap['options'])}"
        return f"{text} + remove_residuals" if self.chain else text

    def unmet(self) -> list[str]:
        """The published numbers that the exact ones do not meet.

        Parameters (all, or those that train) must round to the printed digits; MACs must do so too, or lie within 1 %.
        """
        found = []
        if self.published_parameters is not None:
            printed = Published.parse(self.published_parameters)
            counts = [self.parameters] + ([] if self.trainable is None else [self.trainable])
            if not any(map(printed.is_rounded, counts)):
                found.append(f"published_parameters={printed.text!r}, but there are {_both(counts)}")
        if self.published_macs is not None:
            printed = Published.parse(self.published_macs)
            if self.macs is None:
                found.append(f"published_macs={printed.text!r} is given, but macs is null: state the exact number")
            elif not (printed.is_rounded(self.macs) or printed.is_within(self.macs, "0.01")):
                found.append(f"published_macs={printed.text!r}, but there are {self.macs:,}")
        return found


@dataclass(frozen=True)
class Loaded:
    """A row of a file, or what is wrong with it."""

    file: str
    name: str
    content: Row | RowError

    def row(self) -> Row:
        """The row; raises what is wrong with it."""
        if isinstance(self.content, RowError):
            raise self.content
        return self.content


def load(folder: Path = FOLDER) -> list[Loaded]:
    """Every row of every file, in the order of the files' names. What is broken becomes an entry that says so."""
    found = []
    for path in sorted(folder.glob("*.json")):
        taken: dict[str, int] = {}
        for number, content in enumerate(_rows(path), start=1):
            name = content.network if isinstance(content, Row) else f"row {number}"
            taken[name] = taken.get(name, 0) + 1
            name = name if taken[name] == 1 else f"{name} ({taken[name]})"
            found.append(Loaded(path.stem, name, content))
    return found


def _rows(path: Path) -> Iterator[Row | RowError]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        yield RowError(f"{path.name} cannot be read: {error}")
        return
    if not isinstance(data, list) or not data:
        yield RowError(f"{path.name} must hold a list of at least one row")
        return
    for entry in data:
        try:
            yield Row.read(entry)
        except RowError as error:
            yield RowError(f"{path.name}: {error}")


def page(rows: Iterable[Loaded]) -> str:
    """The table for readers, as Markdown; broken rows are left to the tests."""
    good = [entry for entry in rows if isinstance(entry.content, Row)]
    networks = {entry.row().network for entry in good}
    lines = [
        "# Networks and their published sizes",
        "",
        "This page lists networks with their exact sizes, and the sizes that are published for them.",
        "",
        f"There are {len(networks)} networks. Those with a `+` are made by `convswap.swap`: the unit stands behind it.",
        "Those with `+ remove_residuals` are plain chains of the same function. All others are created by name with",
        "`convswap.create_model`.",
        "",
        "- Our numbers are exact, and `tests/models/test_published_counts.py` asserts them.",
        "- MACs are the multiplications of convolutions and linear layers for one image.",
        "- A published number is met when ours rounds to its printed digits, or for MACs when ours is within 1 %.",
        "- Where a published number is not met, the reason stands beside it.",
        "",
        f"Made by `{UPDATE}` from `tests/models/published/`.",
    ]
    for file in dict.fromkeys(entry.file for entry in good):
        lines += ["", f"## {file.replace('_', ' ')}", ""]
        lines += ["| network | input | parameters | MACs | published | source |", "|---|---|---:|---:|---|---|"]
        lines += [_line(entry.row()) for entry in good if entry.file == file]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    height, width = row.image_size
    shape = f"{row.in_channels}x{height}x{width}, {row.num_classes:,} classes"
    parameters = f"{row.parameters:,}"
    if row.trainable is not None:
        parameters += f" ({row.trainable:,} train)"
    printed = [row.published_parameters, row.published_macs and f"{row.published_macs} MACs"]
    published = ", ".join(text for text in printed if text) or "none"
    if row.reason is not None:
        published += f"; not met: {row.reason}"
    cells = [f"`{row.network}`", shape, parameters, "" if row.macs is None else f"{row.macs:,}", published, row.source]
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _call(arguments: dict[str, Any]) -> str:
    return f"({', '.join(f'{key}={value!r}' for key, value in arguments.items())})" if arguments else ""


def _both(counts: list[int]) -> str:
    return " and, trainable, ".join(f"{count:,}" for count in counts)


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        raise SystemExit(f"usage: {UPDATE}")
    PAGE.write_text(page(load()), encoding="utf-8")
    print(f"wrote {PAGE}")
