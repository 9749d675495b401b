"""What a data set is, in one line for people and as plain values for `result.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .names import shown

_FEW = 6
_WORDS = {"train": "training", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class Description:
    """The facts on a data set. `str()` makes one line of them.

    Attributes:
        counts: by use (`"train"`, `"validation"`, `"test"`), the images of each class.
        names: by use, the name of the folder or array the images come from, where they bring parts.
        width: median width of the images in pixels.
        height: median height.
        one_size: whether all images have this size.
        colours: kinds of images (`"RGB"`, `"grey"`, `"16-bit grey"`, ...) with their numbers.
        left_out: by class and suffix, the files that are no images that are read.
        notes: what else a person should know, one clause each.
    """

    counts: Mapping[str, Mapping[str, int]]
    width: int
    height: int
    colours: Mapping[str, int]
    names: Mapping[str, str] = field(default_factory=dict)
    one_size: bool = False
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "; ".join([self._images(), *self._files(), *self.notes])

    def as_dict(self) -> dict[str, Any]:
        """The facts as JSON types, with the line under `"line"`."""
        return {
            "line": str(self),
            "counts": {use: dict(counts) for use, counts in self.counts.items()},
            "names": dict(self.names),
            "median_size": [self.width, self.height],
            "colours": dict(self.colours),
            "left_out": {name: dict(counts) for name, counts in self.left_out.items()},
            "notes": list(self.notes),
        }

    def _images(self) -> str:
        numbers = [f"{sum(counts.values()):,} {_WORDS[use]}" for use, counts in self.counts.items()]
        size = f"{self.width}x{self.height}" + ("" if self.one_size else " (median)")
        colours = next(iter(self.colours)) if len(self.colours) == 1 else _listed(self.colours)
        return f"{self._classes()}, {', '.join(numbers[:-1])} and {numbers[-1]} images of {size}, {colours}"

    def _classes(self) -> str:
        counts = self.counts["train"]
        if len(counts) <= _FEW:
            inside = _listed({shown(name): count for name, count in counts.items()})
        else:
            low, high = min(counts.values()), max(counts.values())
            inside = f"{low:,} training images each" if low == high else f"{low:,} to {high:,} training images each"
        return f"{len(counts):,} classes ({inside})"

    def _files(self) -> list[str]:
        suffixes: dict[str, dict[str, int]] = {}
        for name, counts in self.left_out.items():
            for suffix, count in counts.items():
                suffixes.setdefault(suffix, {})[name] = count
        total = sum(sum(counts.values()) for counts in self.left_out.values())
        if not total:
            return []
        by_suffix = ", ".join(_where(suffix, counts) for suffix, counts in suffixes.items())
        said = "1 file is no image" if total == 1 else f"{total:,} files are no images"
        return [f"{said} we read ({by_suffix})"]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _where(suffix: str, counts: Mapping[str, int]) -> str:
    """`.heic 5 in ants`; with many classes only their number."""
    if len(counts) > _FEW:
        return f"{suffix} {sum(counts.values()):,} in {len(counts)} classes"
    return f"{suffix} " + " and ".join(f"{count:,} in {shown(name)}" for name, count in counts.items())
