"""One self-contained HTML page of pictures: no script, nothing to load, readable on a phone."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from torch import Tensor

from .._version import __version__
from ..files import write_atomically
from . import draw
from .classes import CLASSES
from .draw.picture import Picture, percent
from .field import PARTS, ReceptiveField
from .overview import Seen
from .style import STYLE


@dataclass(frozen=True)
class Section:
    """A part of the page: pictures under a heading, with a note that says how to read them.

    Attributes:
        heading: of the section.
        note: plain text.
        pictures: in order.
        table: rows of cells, the first the head; None without.
        rows: whether the pictures are of one kind, to be read row by row. Others are packed into columns.
    """

    heading: str
    note: str
    pictures: tuple[Picture, ...]
    table: tuple[tuple[str, ...], ...] | None = None
    rows: bool = False


def sections(seen: Seen, pictures: Tensor | None = None, class_names: Sequence[str] = ()) -> list[Section]:
    """The findings of `look` as sections of a page.

    Args:
        seen: from `look`.
        pictures: the images (N, C, H, W) in 0 .. 1 that `look` was given, in order. Without them attributions are left
            out.
        class_names: for the titles of the attributions.
    """
    made = [_kernels(seen), _atlas(seen), _spectra(seen), _fields(seen.fields), _features(seen)]
    if pictures is not None and seen.attributions:
        made.append(_attributions(seen, pictures, class_names))
    return [section for section in made if section.pictures]


def _kernels(seen: Seen) -> Section:
    note = (
        "Effective kernels, compared without sign and scale with Gaussians, the identity and edge filters (cosine of "
        "at least 0.8, else other). A strided layer that smooths first has a DC gain near 1 and little energy above "
        "the Nyquist frequency of the smaller map; layers of stride 1 are measured as if they had stride 2."
    )
    if not seen.kernels:
        return Section("Kernels", note, ())
    shown = (
        draw.classes_picture(seen.classes),
        draw.low_pass_picture(seen.low_pass),
        draw.low_pass_picture(seen.low_pass, "gain"),
    )
    head = ("layer", "shape", "read from", "kernels", *CLASSES, "DC gain", "aliasing")
    rows = [
        (
            layer.name + (" (last depthwise)" if layer.last_depthwise else ""),
            layer.shape,
            layer.origin,
            f"{len(layer.kernels):,}",
            *(percent(share) for share in atlas.classes.shares.values()),
            f"{low.mean_gain:.2f}",
            f"{low.mean_aliasing:.2f}",
        )
        for layer, atlas, low in zip(seen.kernels, seen.atlases, seen.low_pass, strict=True)
    ]
    return Section("Kernels", note, shown, (head, *rows))


def _atlas(seen: Seen) -> Section:
    note = "Every kernel in its own scale, sum of weights made positive: orange positive, purple negative."
    return Section("Kernel atlas", note, tuple(draw.atlas_picture(atlas) for atlas in seen.atlases), rows=True)


def _spectra(seen: Seen) -> Section:
    if not seen.spectra:
        return Section("Spectra and size of kernels", "", ())
    roles = {layer.name: layer.role for layer in seen.kernels}
    strided = {name: s for name, s in seen.spectra.items() if "strided" in roles[name]}
    shown = [draw.radial_picture(seen.spectra, roles)]
    if strided:
        shown.append(draw.power_picture(dict(list(strided.items())[:9])))
    if any(len(stage.mass.sizes) > 1 for stage in seen.masses):
        shown.append(draw.mass_picture(seen.masses))
    if any(stage.components is not None for stage in seen.masses):
        shown.append(draw.components_picture(seen.masses))
    note = (
        "Kernels of unit length, |FFT|² at 64 x 64 points. Mass and components are of layers of stride 1, taken "
        "together by stage, as in the NIFF paper but with windows of odd side."
    )
    return Section("Spectra and size of kernels", note, tuple(shown))


def _fields(fields: Mapping[str, ReceptiveField]) -> Section:
    note = (
        "Gradient of the unit in the middle of a layer's map with respect to the images. Solid: the centred square "
        "that holds 50 %, dashed: 99 %. Raw values and log10(A / max A + 1) do not depend on the gradients' scale."
    )
    shown = tuple(draw.field_picture(field) for field in fields.values())
    return Section("Effective receptive fields", note, shown, _field_table(fields), rows=True)


def _field_table(fields: Mapping[str, ReceptiveField]) -> tuple[tuple[str, ...], ...]:
    head = ("layer", "transform", *(f"{part:.0%}" for part in PARTS))
    rows = []
    for name, field in fields.items():
        for transform, title in draw.fields.TITLES.items():
            squares = field.squares(transform).values()
            rows.append((name, title, *(f"{s.side} px, {s.area:.1%}" for s in squares)))
    return (head, *rows)


def _features(seen: Seen) -> Section:
    shown = []
    if seen.map_spectra:
        shown.append(draw.map_spectra_picture(seen.map_spectra))
    if seen.duplicates:
        shown.append(draw.duplicates_picture(seen.duplicates))
    if any(r.mean == r.mean for r in seen.redundancy.values()):
        shown.append(draw.redundancy_picture(seen.redundancy))
    if seen.similarity is not None:
        shown.append(draw.similarity_picture(seen.similarity))
    note = "Outputs of convolutions and units before norm and activation. CKA is unbiased, over minibatches."
    return Section("Feature maps", note, tuple(shown))


def _attributions(seen: Seen, pictures: Tensor, class_names: Sequence[str]) -> Section:
    target = seen.attributions[0].target.tolist()
    names = [class_names[t] if t < len(class_names) else f"class {t}" for t in target]
    shown = tuple(
        draw.attribution_picture(pictures[i], seen.attributions, seen.cam, i, name) for i, name in enumerate(names)
    )
    where = f" Grad-CAM of {seen.cam.layer}." if seen.cam else ""
    note = f"Orange pixels support the class, purple ones oppose it.{where}"
    return Section("Which pixels support the predicted class", note, shown, rows=True)


def render_section(section: Section) -> str:
    """A section as HTML."""
    figures = "".join(_figure(picture) for picture in section.pictures)
    table = "" if section.table is None else _table(section.table)
    return (
        f"<section><h2>{escape(section.heading)}</h2><p class='note'>{escape(section.note)}</p>"
        f"<div class='panels{' rows' if section.rows else ''}'>{figures}</div>{table}</section>"
    )


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png()).decode()
    note = f"<p class='note'>{escape(picture.note)}</p>" if picture.note else ""
    return (
        f"<figure><figcaption>{escape(picture.title)}</figcaption>{note}"
        f"<img alt='{escape(picture.alt, quote=True)}' src='data:image/png;base64,{data}'></figure>"
    )


def _table(rows: tuple[tuple[str, ...], ...]) -> str:
    head = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in rows[0])
    body = "".join(
        f"<tr><th scope='row'>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows[1:]
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<details><summary>The numbers</summary><div class='scroll' tabindex='0'>{table}</div></details>"


def _told(part: Section, tell: Callable[[str], None] | None) -> str:
    if tell is not None:
        tell(f"drawing {part.heading.lower()}")
    return render_section(part)


def write_page(
    path: str | Path,
    parts: Sequence[Section],
    *,
    title: str,
    facts: Sequence[str] = (),
    notes: Sequence[str] = (),
    tell: Callable[[str], None] | None = None,
) -> Path:
    """Write a page, the whole file or none of it.

    Args:
        path: the file.
        parts: from `sections` and `comparison`.
        title: the heading.
        facts: short facts under it.
        notes: what could not be seen.
        tell: called with a short text before each section is drawn.

    Raises:
        StoreError: the file cannot be written.
    """
    said = "".join(f"<li>{escape(note)}</li>" for note in notes)
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<meta http-equiv='Content-Security-Policy' "
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        f"<meta name='generator' content='convswap {__version__}'><title>{escape(title)}</title>"
        f"<style>{STYLE}</style></head><body><main><h1>{escape(title)}</h1>"
        f"<p class='note'>{' · '.join(escape(fact) for fact in facts)}</p>"
        + (f"<ul class='note'>{said}</ul>" if said else "")
        + "".join(_told(part, tell) for part in parts)
        + "</main></body></html>\n"
    )
    target = Path(path).expanduser()
    write_atomically(target, page.encode())
    return target
