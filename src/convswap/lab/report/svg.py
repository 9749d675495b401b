"""Altair charts as static inline SVG that follows the page's light or dark colours, without JavaScript."""

from __future__ import annotations

import io
import re
from html import escape
from typing import Any

from ...palette import SERIES, series_color

# Each colour has a lighter one for dark pages.
LOOKS = tuple(zip(SERIES, ("#a5a9b0", "#4aa8e0", "#f08a4b", "#2cc79a", "#e29ac7", "#e8b04a", "#8fd0f5"), strict=True))
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")

INK, MUTED, GRID, PAPER = "#1a1c20", "#5c6169", "#e2e4e8", "#fdfdfe"
"""Placeholders in the charts. The page's variables of the same names replace them."""
FONT = "Helvetica, Arial, sans-serif"


def color(look: int) -> str:
    """The chart colour of a look. Beyond the palette the colours start over, with other shapes."""
    return series_color(look)


def color_name(look: int) -> str:
    """The page's CSS variable for a look's colour."""
    return _VARIABLES[color(look)]


def shape(look: int) -> str:
    """The point shape of a look."""
    lap = (look - 1) // (len(LOOKS) - 1) if look else 0
    # Six colours and seven shapes: each lap shifts by two more shapes, or a lap would end where it began.
    return SHAPES[(look + 2 * lap) % len(SHAPES)]


def to_svg(chart: Any, *, name: str, title: str, grow: float = 1.0) -> str:
    """Render an Altair chart as an `<svg>` element.

    Args:
        chart: any Altair chart.
        name: a name that is unique on the page. The ids within the SVG start with it.
        title: what the chart shows, for readers who cannot see it.
        grow: how far beyond its drawn width the page may stretch it.
    """
    themed = chart.configure(
        aria=False,  # the drawing is one image with one title: thousands of labelled marks help nobody
        background="transparent",
        font=FONT,
        axis={
            "labelColor": MUTED,
            "titleColor": MUTED,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "gridColor": GRID,
            "domainColor": GRID,
            "tickColor": GRID,
            "titlePadding": 8,
        },
        view={"stroke": None},
    )
    target = io.StringIO()
    themed.save(target, format="svg")
    return inline(target.getvalue(), name=name, title=title, grow=grow)


def inline(svg: str, *, name: str, title: str, grow: float = 1.0) -> str:
    """Prepare a rendered SVG for a page: make it scalable, and give it a title, unique ids and the page's colours."""
    width = re.search(r'<svg[^>]*? width="([\d.]+)"', svg)
    if width is None:
        raise AssertionError("the renderer's SVG has no width")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r' xmlns(?::\w+)?="[^"]*"', "", svg)  # an HTML parser knows the namespace
    svg = re.sub(r"#[0-9a-f]{6}\b", _themed, svg, flags=re.IGNORECASE)
    head = f'<svg role="img" aria-labelledby="{name}-title" style="max-width:{grow * float(width.group(1)):.0f}px"'
    svg = svg.replace("<svg", head, 1)
    return svg.replace(">", f'><title id="{name}-title">{escape(title)}</title>', 1)


_VARIABLES = {light: f"--look{index}" for index, (light, _) in enumerate(LOOKS)} | {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
}


def _themed(match: re.Match[str]) -> str:
    variable = _VARIABLES.get(match.group().lower())
    return f"var({variable})" if variable else match.group()
