"""Several models side by side as a section of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import draw
from .classes import CLASSES
from .draw.picture import percent
from .page import Section
from .reuse import Redundancy
from .side import SideBySide

NONE = "–"
HEAD = (
    "aliasing, strided",
    "aliasing, stride 1",
    "DC gain, strided",
    "DC gain, stride 1",
    "50 % of the field",
    "99 % of the field",
    "repeated maps",
    "channel |cos|",
    "dead channels",
)


def comparison(found: SideBySide, colors: Mapping[str, str] | None = None, heading: str = "Side by side") -> Section:
    """Several models side by side.

    Args:
        found: from `compare_models`.
        colors: by model; default: the first grey, the others in colours.
        heading: of the section.
    """
    paint = colors or draw.colors_of(found.names)
    shown = []
    if found.classes:
        shown.append(draw.classes_side_picture(found.classes))
    if found.low_pass:
        shown.append(draw.low_pass_side_picture(found.low_pass, paint))
    if found.fields:
        shown.append(draw.fields_side_picture(found.fields))
    if found.between:
        shown.append(draw.similarity_side_picture(found.between, found.names[0]))
    again = {name: {pair.first: pair.mean for pair in pairs} for name, pairs in found.duplicates.items() if pairs}
    if again:
        title, y = "Maps that come back in the next layer", "mean best |correlation|"
        note = "How similar a channel is to the most similar channel of the next layer, mean over a layer's channels."
        shown.append(draw.depth_picture(again, paint, title, y, note))
    alike = {name: _known(layers) for name, layers in found.redundancy.items()}
    alike = {name: layers for name, layers in alike.items() if layers}
    if alike:
        note = "How similar two channels of a layer are, mean over pairs."
        title, y = "Channels that say the same", "mean |cos| between channels"
        shown.append(draw.depth_picture(alike, paint, title, y, note))
    if found.atlases:
        shown.append(draw.atlases_side_picture(found.atlases))
    note = f"The same {found.images} images through every network."
    return Section(heading, note, tuple(shown), _comparison_table(found))


def _known(layers: Mapping[str, Redundancy]) -> dict[str, float]:
    return {name: r.mean for name, r in layers.items() if r.mean == r.mean}


def _comparison_table(found: SideBySide) -> tuple[tuple[str, ...], ...]:
    """One row per model: the means of what the pictures show."""
    head = ("model", *CLASSES, *HEAD, f"CKA with {found.names[0]}")
    return (head, *(_comparison_row(found, name) for name in found.names))


def _comparison_row(found: SideBySide, name: str) -> tuple[str, ...]:
    counts = [sum(s.counts[label] for s in found.classes.get(name, ())) for label in CLASSES]
    low = found.low_pass.get(name, [])
    strided, others = ([layer for layer in low if ("strided" in layer.role) is on] for on in (True, False))
    field = found.fields.get(name)
    squares = [] if field is None else [field.square(part, "log_normalised") for part in (0.5, 0.99)]
    redundancy = found.redundancy.get(name, {})
    similarity = found.between.get(name)
    return (
        name,
        *(percent(count / sum(counts)) if sum(counts) else NONE for count in counts),
        *(_mean([layer.mean_aliasing for layer in layers]) for layers in (strided, others)),
        *(_mean([layer.mean_gain for layer in layers]) for layers in (strided, others)),
        *(f"{s.side} px" for s in squares or ()),
        *((NONE, NONE) if not squares else ()),
        _mean([pair.mean for pair in found.duplicates.get(name, ())]),
        _mean(list(_known(redundancy).values())),
        str(sum(r.dead for r in redundancy.values())) if redundancy else NONE,
        NONE if similarity is None else f"{similarity.matched:.2f}",
    )


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.2f}" if values else NONE
