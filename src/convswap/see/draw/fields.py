"""Pictures of effective receptive fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..field import PARTS, ReceptiveField
from .picture import MAGNITUDE, Picture, bare, cut, new_figure

TITLES = {"raw": "raw", "log": "log (as published)", "log_normalised": "log, normalised"}


def field_picture(field: ReceptiveField, name: str | None = None) -> Picture:
    """One field, raw and normalised, with the squares that hold 50 and 99 %."""
    return fields_picture({name or field.layer: field}, f"Receptive field of {name or field.layer}")


def fields_picture(fields: Mapping[str, ReceptiveField], title: str = "Effective receptive field") -> Picture:
    """Fields below one another, raw and normalised side by side, with the squares that hold 50 % and 99 %."""

    def draw() -> Any:
        figure, axes = new_figure(2.15 * len(fields), len(fields), 2)
        for row, (name, field) in zip(axes, fields.items(), strict=True):
            for ax, transform in zip(row, ("raw", "log_normalised"), strict=True):
                draw_field(ax, field, transform)
                ax.set_title(f"{cut(name, 22)}\n{TITLES[transform]}", fontsize=7.5, loc="left")
        return figure

    return Picture(title, " ".join(describe(name, field) for name, field in fields.items()), draw)


def draw_field(ax: Any, field: ReceptiveField, transform: str) -> None:
    """One field with the squares that hold 50 % (solid) and 99 % (dashed) on axes."""
    from matplotlib.patches import Rectangle

    bare(ax)
    values = field.values(transform)
    height, width = values.shape
    ax.imshow(values.numpy(), cmap=MAGNITUDE, vmin=0, vmax=1)
    for part, style in ((0.5, "-"), (0.99, "--")):
        reach = field.square(part, transform).side // 2
        corner = (width // 2 - reach - 0.5, height // 2 - reach - 0.5)
        frame = Rectangle(corner, 2 * reach + 1, 2 * reach + 1, fill=False, ec="white", lw=1, ls=style)
        ax.add_patch(frame)
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    square = field.square(0.5, transform), field.square(0.99, transform)
    ax.set_xlabel(f"50 % in {square[0].side} px, 99 % in {square[1].side} px", fontsize=7)


def describe(name: str, field: ReceptiveField, transform: str = "log_normalised") -> str:
    """The squares in words."""
    squares = field.squares(transform)
    sides = ", ".join(f"{part:.0%} within {squares[part].side} pixels ({squares[part].area:.1%})" for part in PARTS)
    height, width = field.contribution.shape
    return f"{name}: of {height}x{width} pixels, {TITLES[transform]}, centred squares hold {sides} of the image."
