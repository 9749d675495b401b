"""What a picture is, and the style all pictures share. All are 3.6 inches wide, to be read on a phone."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 3.6
INK, MUTED, GRID = "#1a1c20", "#5c6169", "#d9dce1"
# Okabe and Ito's colours for colour-blind readers. Each colour has a hatch or a marker.
CLASS_LOOKS = {
    "gaussian": ("#0072b2", ""),
    "identity": ("#e69f00", "//"),
    "edge": ("#009e73", ".."),
    "other": ("#b9bdc4", ""),
}
ROLE_LOOKS = {
    "strided depthwise": ("#d55e00", "D"),
    "depthwise": ("#0072b2", "o"),
    "strided": ("#cc79a7", "s"),
    "dense": ("#5c6169", "^"),
}
MARKERS = "osD^vP*X"
SIGNED, MAGNITUDE = "PuOr", "viridis"


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        title: what it shows, in a few words.
        alt: a description for readers who cannot see it.
        draw: makes the matplotlib figure.
        photographs: whether it holds photographs. If so, its file keeps all colours.
        note: how to read it, for all readers; may be empty.
    """

    title: str
    alt: str
    draw: Callable[[], Figure]
    photographs: bool = False
    note: str = ""

    def png(self, dpi: int = 200) -> bytes:
        """The figure as a PNG file. Without photographs it has 255 colours, which makes a third of the size."""
        from PIL import Image

        target = io.BytesIO()
        self.draw().savefig(target, format="png", dpi=dpi, metadata={"Software": None})
        if self.photographs:
            return target.getvalue()
        small = io.BytesIO()
        with Image.open(target) as image:
            image.convert("RGB").quantize(255, dither=Image.Dither.NONE).save(small, "png", optimize=True)
        return small.getvalue()


def new_figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of the common width with a grid of axes (rows, columns), as a two-dimensional array."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for ax in axes.flat:
        quiet(ax)
    return figure, axes


def quiet(ax: Any) -> None:
    """Small muted labels; no frame, only the lines of the axes."""
    ax.tick_params(labelsize=7.5, colors=MUTED, length=2.5, color=GRID)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(GRID)
    ax.xaxis.label.set(size=8, color=MUTED)
    ax.yaxis.label.set(size=8, color=MUTED)
    ax.title.set(size=8)


def bare(ax: Any) -> None:
    """An image: no axes."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def legend(figure: Any, handles: Any = None, columns: int = 2) -> None:
    """A legend above the figure."""
    options = {"loc": "outside upper left", "ncols": columns, "fontsize": 7.5, "frameon": False, "handlelength": 1.4}
    handles = handles or figure.axes[0].get_legend_handles_labels()[0]
    figure.legend(handles=handles, **options)


def cut(name: str, length: int = 24) -> str:
    """A name that fits beside a chart: the end of a long one."""
    return name if len(name) <= length else f"…{name[1 - length :]}"


def percent(value: float) -> str:
    """`12 %`, and `0.4 %` below one percent."""
    return f"{100 * value:.0f} %" if value >= 0.01 or value == 0 else f"{100 * value:.1f} %"
