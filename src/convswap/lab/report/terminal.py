"""The comparison as a table on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..trial import ENOUGH_SEEDS
from . import text
from .hosts import ranks_over_models
from .robustness import Score, cell, present
from .sentences import sentences, untested
from .view import RowView, Timing, against, varied, view_rows

if TYPE_CHECKING:
    from rich.table import Table

_AGAINST = "vs conv"
COLUMNS = ("n", "accuracy %", _AGAINST, "p (Holm)", "params", "MACs", "ms", "ms fused", "P(better)")
NEEDED = ("accuracy %", _AGAINST, "n", "p (Holm)", "params", "MACs", "ms fused", "ms", "P(better)")
"""The same columns, ordered by how long a narrow terminal keeps them."""
NAME_WIDTH = 8, 18
_ALWAYS = 2
_ROOM = 4
"""Letters of a baseline that fit into the heading of a column."""
_GAP = 2


def terminal_table(rows: Iterable[Mapping[str, Any]], *, width: int | None = None) -> Table:
    """The main columns of the report as a rich table.

    Args:
        rows: summary rows, as made by `convswap.lab.summary`.
        width: width of the terminal in characters, by default as rich finds it. A narrow table has fewer columns.
    """
    from rich.markup import escape

    views = view_rows(rows)
    several_models = len({view.model for view in views}) > 1
    cells = [_cells(view) for view in views]
    fitting = _fitting(views, cells, NEEDED, width)
    columns = [name for name in COLUMNS if name in fitting]
    notes = "\n".join(filter(None, [_notes(views, columns), _left_out(COLUMNS, columns)]))
    headings = [_heading(name, views) for name in columns]
    table = _table(None if several_models or not views else views[0].model, headings, notes, varied(views))
    model = None
    for view, texts in zip(views, cells, strict=True):
        if several_models and view.model != model:
            table.add_section()
            table.add_row(f"[bold]{escape(view.model)}[/]")
            model = view.model
        table.add_row(_name(view), *(texts[name] for name in columns))
    return table


def robustness_table(rows: Iterable[Mapping[str, Any]], *, width: int | None = None) -> Table | None:
    """The headline scores of robustness, in percent. None if nothing was measured.

    Args:
        rows: summary rows, as made by `convswap.lab.summary`.
        width: as in `terminal_table`.
    """
    from rich.markup import escape

    views = [view for view in view_rows(rows) if view.robustness is not None]
    if not views:
        return None
    scores = present(views)
    cells = [{score.short: _score(view, score) for score in scores} for view in views]
    columns = _fitting(views, cells, [score.short for score in scores], width)
    several_models = len({view.model for view in views}) > 1
    left_out = _left_out([score.short for score in scores], columns)
    table = _table("robustness, %", columns, "\n".join(filter(None, [_robustness_notes(views, cells), left_out])))
    for view, texts in zip(views, cells, strict=True):
        name = f"{escape(view.model)} {_name(view)}" if several_models else _name(view)
        table.add_row(name, *(texts[name] for name in columns))
    return table


def _heading(name: str, views: Sequence[RowView]) -> str:
    """A column's heading. The names of long baselines have no room in it."""
    if name != _AGAINST:
        return name
    other = against(views) if views else "conv"
    return f"vs {other if len(other) <= _ROOM else 'base'}"


def in_words(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the rows say, one sentence per variant that was tested against its baseline, and one on the others."""
    views = view_rows(rows)
    several_models = len({view.model for view in views}) > 1
    said = [f"{view.model}: {sentence}" if several_models else sentence for view, sentence in sentences(views)]
    return [*said, *filter(None, [untested(views), ranks_over_models(views)])]


def _table(title: str | None, columns: Sequence[str], notes: str, rows: str = "unit") -> Table:
    """A table of units, still without rows, with the notes below."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        title=None if title is None else escape(title),
        title_justify="left",
        caption=escape(notes) or None,
        caption_justify="left",
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column(rows, overflow="fold", min_width=NAME_WIDTH[0])
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _score(view: RowView, score: Score) -> str:
    found = cell(view, score)
    return found.value.partition(" ")[0] + {"better": "▲", "worse": "▼", "": ""}[found.verdict]


def _robustness_notes(views: Sequence[RowView], cells: Sequence[Mapping[str, str]]) -> str:
    measured = dict.fromkeys(
        f"{v.robustness['profile']}, {v.robustness['images']} images" for v in views if v.robustness
    )
    marked = any(value[-1:] in "▲▼" for texts in cells for value in texts.values())
    notes = [f"profile {' and '.join(measured)}; intervals and what was left out: see the report"]
    return "\n".join([*(["▲▼ better, worse than conv at 95 %"] if marked else []), *notes])


def _fitting(
    views: Sequence[RowView], cells: Sequence[Mapping[str, str]], needed: Sequence[str], width: int | None
) -> list[str]:
    """The columns that fit beside the units' names. Names get room before the least needed columns."""
    from rich.console import Console

    width = Console().width if width is None else width
    longest = max((len(word) for view in views for word in (view.variant, *view.detail.split())), default=0)
    left = width - max(NAME_WIDTH[0], min(NAME_WIDTH[1], longest)) - _GAP
    chosen = list(needed[:_ALWAYS])
    for name in needed:
        left -= _GAP + max([len(name), *(len(texts[name]) for texts in cells)])
        if left < 0:
            break
        chosen.append(name)
    return [name for name in needed if name in chosen]


def _left_out(every: Sequence[str], columns: Sequence[str]) -> str:
    """Which columns a narrow terminal has no room for."""
    missing = [name for name in every if name not in columns]
    return f"no room for {', '.join(missing)}: see the report, or widen the terminal" if missing else ""


def _cells(view: RowView) -> dict[str, str]:
    return {
        "n": f"{view.n}",
        "accuracy %": text.mean_with_interval(view.mean, view.low, view.high),
        _AGAINST: "baseline" if view.is_baseline else text.points(view.difference),
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

    name = f"[bold]{escape(view.variant)}[/]" if view.ranked else f"{escape(view.variant)}*"
    return f"{name} [dim]{escape(view.detail)}[/]" if view.detail else name


def _notes(views: Iterable[RowView], columns: Sequence[str]) -> str:
    views = list(views)
    notes = []
    if any(not view.ranked for view in views):
        notes.append(f"* fewer than {ENOUGH_SEEDS} seeds: not ranked")
    shown = {"ms": [view.latency for view in views], "ms fused": [view.latency_fused for view in views]}
    if any(timing is not None and timing.noisy for name in shown if name in columns for timing in shown[name]):
        notes.append(f"~ {text.NOISY}")
    failed = sum(view.failed for view in views)
    if failed:
        notes.append(f"{failed} trial{'s' if failed > 1 else ''} failed: see the report")
    return "\n".join(notes)
