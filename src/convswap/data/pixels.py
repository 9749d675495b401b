"""What the files of a folder have in common: kinds, depth, size. How they are decoded follows from all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from ..errors import DataError
from .decode import FLOAT, Decoding, is_wide
from .depth import Scale, find_scale
from .describe import Description
from .inspection import WIDE_COLOUR, FileFacts
from .names import counted, shown
from .options import WHITE, DataOptions
from .scan import Entry, FolderScan
from .uses import TRAIN

_KINDS = {
    "RGB": "RGB",
    "RGBA": "RGB with alpha",
    "L": "grey",
    "LA": "grey with alpha",
    "1": "black and white",
    "P": "palette",
    "CMYK": "CMYK",
    "YCbCr": "RGB",
    "F": "float grey",
    "I": "32-bit grey",
}
_GREY = frozenset(("grey", "grey with alpha", "black and white", "float grey", "32-bit grey", "16-bit grey"))


def decoding_of(facts: Sequence[FileFacts], options: DataOptions, source: str) -> tuple[Decoding, list[str]]:
    """How all files of a data set become pixels, and what a person should know of it.

    Raises:
        DataError: wide values have no usual range, or whole numbers and floats are mixed.
    """
    _check_wide_colour([one for one in facts if one.kind == WIDE_COLOUR], source)
    scale = _scale(facts, source)
    notes = [] if scale is None else [scale.text]
    wide = sum(is_wide(one.kind) for one in facts)
    if wide and wide < len(facts):
        notes.append(f"only {wide:,} of {len(facts):,} files have more than 8 bits, the others are read as they are")
    transparent = sum(one.transparent for one in facts)
    if transparent:
        colour = "white" if options.background == WHITE else options.background
        notes.append(f"{counted(transparent, 'image')} with transparent pixels laid on {colour}")
    all_grey = all(_kind(one) in _GREY for one in facts)
    if all_grey and options.channels == "auto":
        notes.append("all images are grey, read as RGB: --channels gray keeps one channel")
    if not all_grey and options.channels == "gray":
        notes.append("read as grey")
    channels = 1 if options.channels == "gray" else 3
    return Decoding(channels=channels, background=options.background, scale=scale), notes


def describe_folder(scan: FolderScan, facts: Mapping[str, Sequence[FileFacts]], notes: tuple[str, ...]) -> Description:
    """The description of a folder from its scan and the facts on its files, by use."""
    everything = [one for of_use in facts.values() for one in of_use]
    kinds = Counter(_kind(one) for one in everything)
    counts = {
        use: dict.fromkeys(scan.class_names, 0) | Counter(scan.class_names[entry.label] for entry in entries)
        for use, entries in scan.parts.items()
    }
    return Description(
        counts=counts,
        width=round(median(one.width for one in everything)),
        height=round(median(one.height for one in everything)),
        one_size=len({(one.width, one.height) for one in everything}) == 1,
        colours=dict(kinds.most_common()),
        names=scan.uses.names,
        left_out=scan.left_out,
        notes=notes,
    )


def notes_across(scan: FolderScan, facts: Mapping[str, Sequence[FileFacts]], scale: Scale | None) -> list[str]:
    """What only a look over parts and classes shows: images that stand twice, and classes of fewer bits."""
    places: dict[str, dict[str, Entry]] = {}
    labels: dict[str, set[int]] = {}
    highest: dict[int, float] = {}
    for use, entries in scan.parts.items():
        for entry, one in zip(entries, facts[use], strict=True):
            places.setdefault(one.digest, {}).setdefault(use, entry)
            labels.setdefault(one.digest, set()).add(entry.label)
            if is_wide(one.kind):
                highest[entry.label] = max(one.high, highest.get(entry.label, 0))
    notes = []
    for use in scan.parts:
        shared = [uses[use] for uses in places.values() if use != TRAIN and use in uses and TRAIN in uses]
        if shared:
            first = shown(shared[0].path.relative_to(scan.path))
            notes.append(f"{counted(len(shared), f'{use} image')} also among the training images ({first})")
    if twice := sum(len(of_content) > 1 for of_content in labels.values()):
        notes.append(f"{counted(twice, 'image')} in more than one class")
    if scale is not None:
        low = [label for label, high in highest.items() if high * 16 <= scale.white]
        notes += [f"class {shown(scan.class_names[label])} reaches {highest[label]:.6g} only" for label in low[:3]]
    return notes


def _scale(facts: Sequence[FileFacts], source: str) -> Scale | None:
    wide = [one for one in facts if is_wide(one.kind)]
    if not wide:
        return None
    floats = sum(one.kind == FLOAT for one in wide)
    if 0 < floats < len(wide):
        raise DataError(
            f"{source}: {counted(floats, 'file')} of floats and {len(wide) - floats} of whole numbers of more than 8 "
            "bits; store all alike, e.g. as 16-bit PNG"
        )
    low, high = min(one.low for one in wide), max(one.high for one in wide)
    return find_scale(low, high, whole=not floats, source=source)


def _check_wide_colour(facts: Sequence[FileFacts], source: str) -> None:
    """Pillow keeps the upper 8 of 16 bits: of values up to 12 bits nothing but black would be left."""
    high = max((one.high for one in facts), default=255)
    if high < 64:
        raise DataError(
            f"{source}: {counted(len(facts), 'colour image')} of 16 bits with values only up to "
            f"{int(high + 1) * 256 - 1}, which would be read as nearly black; store them as 8-bit PNG, scaled over the "
            "whole data set"
        )


def _kind(facts: FileFacts) -> str:
    return "16-bit grey" if facts.kind.startswith("I;16") else _KINDS.get(facts.kind, facts.kind)
