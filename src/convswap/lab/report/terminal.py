"""The comparison as a table on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import text
from .view import RowView, Timing, view_rows

if TYPE_CHECKING:
    from rich.table import Table

WIDE = 96
"""From this width on all columns fit; below it the least needed ones are left out."""
MEDIUM = 76
SMALL = 56


def terminal_table(rows: Iterable[Mapping[str, Any]], *, width: int | None = None) -> Table:
    """The main columns of the report as a rich table.

    Args:
        rows: summary rows, as made by `convswap.lab.summary`.
        width: columns of the terminal; by default the width rich finds. A narrow one gets fewer columns.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    views = view_rows(rows)
    available = width if width is not None else Console().width
    several_models = len({view.model for view in views}) > 1
    columns = _columns(available)
    title = None if several_models or not views else escape(views[0].model)
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, padding=(0, 1))
    table.add_column("unit", overflow="fold", min_width=8)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    model = None
    for view in views:
        if several_models and view.model != model:
            table.add_section()
            table.add_row(f"[bold]{escape(view.model)}[/]")
            model = view.model
        cells = _cells(view)
        table.add_row(_name(view), *(cells[name] for name in columns))
    notes = _notes(views, timed="ms" in columns)
    table.caption = escape(notes) if notes else None
    table.caption_justify = "left"
    return table


def _columns(width: int) -> list[str]:
    if width < SMALL:
        return ["accuracy %", "vs conv"]
    columns = ["n", "accuracy %", "vs conv", "p (Holm)"]
    if width >= MEDIUM:
        columns += ["params", "MACs"]
    if width >= WIDE:
        columns += ["P(better)", "ms", "ms fused"]
    return columns


def _cells(view: RowView) -> dict[str, str]:
    return {
        "n": f"{view.n}" if view.ranked else f"{view.n}*",
        "accuracy %": text.mean_with_interval(view.mean, view.low, view.high),
        "vs conv": "baseline" if view.is_baseline else text.points(view.difference),
        "p (Holm)": text.p_value(view.p_holm),
        "params": text.short_count(view.parameters),
        "MACs": text.short_count(view.macs),
        "P(better)": text.NONE if view.probability_better is None else f"{view.probability_better:.2f}",
        "ms": _ms(view.latency),
        "ms fused": _ms(view.latency_fused),
    }


def _ms(timing: Timing | None) -> str:
    return text.NONE if timing is None else text.milliseconds(timing.median_ms) + ("~" if timing.noisy else "")


def _name(view: RowView) -> str:
    from rich.markup import escape

    name = f"[bold]{escape(view.unit)}[/]" if view.ranked else escape(view.unit)
    return f"{name} [dim]{escape(view.detail)}[/]" if view.detail else name


def _notes(views: list[RowView], *, timed: bool) -> str:
    notes = []
    if any(not view.ranked for view in views):
        notes.append("* fewer than three seeds: not ranked")
    timings = [timing for view in views for timing in (view.latency, view.latency_fused) if timing is not None]
    if timed and any(timing.noisy for timing in timings):
        notes.append("~ noisy: the quartiles are over 20 % of the median apart")
    failed = sum(view.failed for view in views)
    if failed:
        notes.append(f"{failed} trial{'s' if failed > 1 else ''} failed: see the report")
    return "\n".join(notes)
