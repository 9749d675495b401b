"""Several units for one network, as plain data: which places take which unit, with which options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..units.contract.registry import get_unit
from ..units.contract.where import parse
from .build import check_options
from .plan import unit_text

_FORM = '{"layer1.*": "circle", "layer[34].*": ["ic", {"gate": "closed"}]}'


@dataclass(frozen=True)
class Part:
    """One entry of a mixture: a selection, and the unit that its places take."""

    where: str
    unit: str
    options: dict[str, Any]

    def __str__(self) -> str:
        return f"{unit_text(self.unit, self.options)} where {self.where}"

    @property
    def value(self) -> str | list[Any]:
        """The entry's value in JSON."""
        return [self.unit, self.options] if self.options else self.unit


@dataclass(frozen=True)
class Mixture:
    """Which places take which unit: `{"layer1.*": "circle", "layer[34].*": ["ic", {"gate": "closed"}]}`.

    A key is a selection as `where` takes it. A value is the name of a unit, or the name and its options. The order of
    the entries means nothing, since no two of them may select the same place.

    Attributes:
        parts: the entries, sorted by selection.
    """

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, entries: Mapping[str, Any] | Mixture) -> Mixture:
        """Read and check a mapping of selections to units.

        Raises:
            UsageError: it is empty, an entry has another form, a selection is not well-formed, a unit or an option is
                unknown, or an option's value cannot be written as JSON. The message names the entry.
        """
        if isinstance(entries, Mixture):
            return entries
        if not isinstance(entries, Mapping):
            raise UsageError(f"a mixed plan is a mapping such as {_FORM}, not {entries!r}")
        if not entries:
            raise UsageError(f"a mixed plan needs at least one entry, such as {_FORM}")
        return cls(tuple(sorted((_part(*entry) for entry in entries.items()), key=lambda part: part.where)))

    @classmethod
    def from_json(cls, text: str) -> Mixture:
        """The mixture of `to_json()`, or written by hand.

        Raises:
            UsageError: the text is not JSON, has a key twice, or is no mixture.
        """
        try:
            entries = json.loads(text, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            raise UsageError(f"a mixed plan is a JSON object such as {_FORM}; this is not JSON: {error}") from error
        return cls.of(entries)

    @classmethod
    def read(cls, path: str | Path) -> Mixture:
        """The mixture of a JSON file.

        Raises:
            UsageError: there is no such file, it cannot be read, or it holds no mixture. The message names the file.
        """
        file = Path(path).expanduser()
        if not file.is_file():
            raise UsageError(
                f"mixed plan {str(path)!r}: {'is a folder, not a file' if file.is_dir() else 'no such file'}"
            )
        try:
            return cls.from_json(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"mixed plan {str(path)!r} cannot be read as text: {error}") from error
        except UsageError as error:
            raise UsageError(f"mixed plan {str(path)!r}: {error}") from error

    def as_dict(self) -> dict[str, Any]:
        """The entries as plain values, for JSON."""
        return {part.where: part.value for part in self.parts}

    def to_json(self) -> str:
        """The entries as JSON, which `from_json` reads."""
        return json.dumps(self.as_dict(), indent=2)

    @property
    def id(self) -> str:
        """Sixteen hex digits of the hash of the entries. Their order and the layout of a file do not matter."""
        return content_id(self.as_dict())

    def __str__(self) -> str:
        return mixture_text(self.as_dict())


def content_id(entries: Mapping[str, Any]) -> str:
    """The id of a mixture's `as_dict()`, also where a unit of it is not installed."""
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def mixture_text(entries: Mapping[str, Any]) -> str:
    """A mixture's `as_dict()` on one line.

    >>> mixture_text({"layer1.*": "circle", "layer3.*": ["ic", {"gate": "closed"}]})
    "circle where layer1.*; ic (gate='closed') where layer3.*"
    """
    parts = [(where, *((value, {}) if isinstance(value, str) else value)) for where, value in entries.items()]
    return "; ".join(f"{unit_text(unit, options)} where {where}" for where, unit, options in parts)


def _part(where: object, value: object) -> Part:
    if not isinstance(where, str):
        raise UsageError(f"a mixed plan's key must be a selection such as 'layer1.*', not {where!r}")
    entry = f"entry {where!r} of the mixed plan"
    try:
        parse(where)
        unit, options = _unit_and_options(value)
        spec = get_unit(unit)
        check_options(spec, options)
    except UsageError as error:
        raise UsageError(f"{entry}: {error}") from error
    return Part(where, spec.name, options)


def _unit_and_options(value: object) -> tuple[str, dict[str, Any]]:
    unit, options = value, {}
    if isinstance(value, list | tuple) and len(value) == 2:
        unit, options = value
    if not isinstance(unit, str) or not isinstance(options, Mapping):
        raise UsageError(f'{value!r} is not allowed; give a unit\'s name, or ["name", {{"option": value}}]')
    try:
        return unit, json.loads(json.dumps(dict(options), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"options {options!r} of unit {unit!r} must be made of JSON values: {error}") from error


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Of a key that stands twice, Python would keep the last one without a word."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise UsageError(f"the key {key!r} stands twice; join them, or make the selections narrower")
        found[key] = value
    return found
