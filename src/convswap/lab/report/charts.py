"""The report's charts, in Altair. Each function returns inline SVG, which `svg.py` fits to the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from . import text
from .svg import INK, MUTED, PAPER, SHAPES, color, shape, to_svg
from .view import RowView, Timing

CURVE_WIDTH, COST_WIDTH = 330, 262
"""Small multiples are as wide as a third or a quarter of a desktop page. A phone shows one per row."""

COSTS = {
    "parameters": "parameters",
    "macs": "multiply-accumulates (MACs) per image",
    "latency": "latency as trained, ms",
    "latency_fused": "latency after fuse, ms",
}


def seeds_chart(rows: Sequence[RowView], *, name: str, width: int) -> str | None:
    """Every seed as a dot, with mean and 95 % interval below. None if no trial finished.

    A narrow chart writes the units' names above their dots instead of beside them.
    """
    import altair as alt

    shown = [row for row in rows if row.accuracies]
    if not shown:
        return None
    narrow = width < 500
    order = [row.key for row in shown]
    names = {row.key: text.cut(row.label, 44 if narrow else 34) for row in shown}
    edges = [100 * edge for row in shown for edge in (*row.accuracies, row.low, row.high) if edge is not None]
    low, high = domain_of(edges)
    x: dict[str, Any] = {
        "scale": alt.Scale(domain=[low, high], nice=False, zero=False),
        "axis": alt.Axis(title="test accuracy, %", tickCount=5 if narrow else 8, domain=False, labelFlush=False),
    }
    y = alt.Y(
        "row:N",
        sort=order,
        axis=None
        if narrow
        else alt.Axis(
            title=None,
            labelExpr=f"({json.dumps(names)})[datum.value]",
            labelLimit=240,
            labelColor=INK,
            labelFontSize=13,
            ticks=False,
            domain=False,
            grid=False,
            labelPadding=10,
        ),
    )
    dots = [
        {"row": row.key, "accuracy": 100 * accuracy, "color": color(row.look)}
        for row in shown
        for accuracy in row.accuracies
    ]
    means = [
        {
            "row": row.key,
            "accuracy": 100 * (row.mean or 0.0),
            "low": None if row.low is None else 100 * row.low,
            "high": None if row.high is None else 100 * row.high,
            "color": color(row.look),
            "name": names[row.key],
            "left": low,
        }
        for row in shown
    ]
    paint = alt.Color("color:N", scale=None)
    lane = -2 if narrow else -8
    layers = [
        alt.Chart(inline_data(dots))
        .mark_circle(size=64, opacity=0.6, yOffset=lane, stroke=PAPER, strokeWidth=0.5)
        .encode(x=alt.X("accuracy:Q", **x), y=y, color=paint),
        alt.Chart(inline_data([m for m in means if m["low"] is not None]))
        .mark_rule(strokeWidth=2.5, yOffset=lane + 16)
        .encode(x=alt.X("low:Q", **x), x2="high:Q", y=y, color=paint),
        alt.Chart(inline_data(means))
        .mark_point(shape="diamond", size=80, filled=True, opacity=1, yOffset=lane + 16, stroke=PAPER, strokeWidth=1)
        .encode(x=alt.X("accuracy:Q", **x), y=y, color=paint),
    ]
    if narrow:
        layers.append(
            alt.Chart(inline_data(means))
            .mark_text(align="left", baseline="bottom", dy=lane - 10, fontSize=13, color=INK)
            .encode(x=alt.X("left:Q", **x), y=y, text="name:N")
        )
    baseline = [mean for row, mean in zip(shown, means, strict=True) if row.is_baseline]
    if baseline:
        rule = alt.Chart(inline_data(baseline)).mark_rule(strokeDash=[4, 4], color=MUTED, opacity=0.7)
        layers.insert(0, rule.encode(x=alt.X("accuracy:Q", **x)))
    step = 62 if narrow else 46
    chart = alt.layer(*layers).properties(
        width=width, height=step * len(shown), autosize=alt.AutoSizeParams(type="fit-x", contains="padding")
    )
    title = f"Test accuracy of every seed with mean and 95 % interval: {_spoken(shown)}"
    return to_svg(chart, name=name, title=title, grow=1.5 if narrow else 1.125)


def curve_chart(
    row: RowView,
    curves: Sequence[Sequence[float]],
    baseline: Sequence[Sequence[float]],
    domain: tuple[float, float],
    *,
    name: str,
) -> str:
    """Accuracy by epoch: a thin line for each seed, their mean, and the baseline's mean dashed."""
    import altair as alt

    longest = max(2, *(len(curve) for curve in (*curves, *baseline)))
    # With fewer epochs than ticks, the renderer would put ticks between epochs.
    ticks = {"values": list(range(1, longest + 1))} if longest <= 6 else {"tickCount": 5}
    x = alt.X(
        "epoch:Q",
        scale=alt.Scale(domain=[1, longest], nice=False),
        axis=alt.Axis(title="epoch", format="d", grid=False, **ticks),
    )
    y = alt.Y(
        "accuracy:Q",
        scale=alt.Scale(domain=list(domain), nice=False, zero=False),
        axis=alt.Axis(title=None, tickCount=5, domain=False, ticks=False),
    )
    paint = color(row.look)

    def line(curve: Sequence[float], label: str, **mark: Any) -> Any:
        points = [{"epoch": epoch, "accuracy": 100 * value} for epoch, value in enumerate(curve, 1)]
        # A single epoch makes no line.
        return (
            alt.Chart(inline_data(points), name=label)
            .mark_line(clip=True, point=len(points) == 1, **mark)
            .encode(x=x, y=y)
        )

    layers = []
    if baseline and not row.is_baseline:
        layers.append(line(mean_curve(baseline), f"{name}b", color=color(0), strokeWidth=1.75, strokeDash=[4, 3]))
    if len(curves) > 1:
        layers += [
            line(curve, f"{name}s{index}", color=paint, strokeWidth=1, opacity=0.4)
            for index, curve in enumerate(curves)
        ]
    layers.append(line(mean_curve(curves), f"{name}m", color=paint, strokeWidth=2.5))
    chart = alt.layer(*layers).properties(width=CURVE_WIDTH, height=190, autosize=_fit(alt))
    last = text.percent(mean_curve(curves)[-1])
    return to_svg(chart, name=name, title=f"Accuracy of {row.label} by epoch, {last} % after the last one")


def cost_chart(rows: Sequence[RowView], cost: str, *, name: str) -> str | None:
    """Mean accuracy with its interval against one cost. None if nothing was counted or measured."""
    import altair as alt

    shown = [(row, value) for row in rows if row.mean is not None and (value := cost_of(row, cost)) is not None]
    if not shown:
        return None
    shapes = shape_by(rows)
    costs = [value for _, value in shown]
    log = max(costs) > 8 * min(costs) > 0
    # Equal counts would hide each other. Measured latencies differ, and their quartiles must stay where they are.
    drawn = costs if cost.startswith("latency") else _side_by_side(costs, log)
    points: list[dict[str, Any]] = []
    for (row, _), place in zip(shown, drawn, strict=True):
        low, high = (row.mean if edge is None else edge for edge in (row.low, row.high))
        timing = getattr(row, cost) if cost.startswith("latency") else None
        quartiles = (place, place)
        if timing is not None and timing.q1_ms is not None and timing.q3_ms is not None:
            quartiles = (timing.q1_ms, timing.q3_ms)
        points.append(
            {
                "cost": place,
                "accuracy": 100 * (row.mean or 0.0),
                "low": 100 * (low or 0.0),
                "high": 100 * (high or 0.0),
                "q1": quartiles[0],
                "q3": quartiles[1],
                "color": color(row.look),
                "shape": shapes[row.key],
            }
        )
    scale = alt.Scale(type="log", nice=False, domain=[min(drawn) / 1.3, max(drawn) * 1.3])
    if not log:
        edges = [point[end] for point in points for end in ("cost", "q1", "q3")]
        scale = alt.Scale(nice=False, zero=False, domain=list(domain_of(edges, least=0.12 * max(costs), pad=0.12)))
    label = "format(datum.value, '~g')" if cost.startswith("latency") else "format(datum.value, '.3~s')"
    x: dict[str, Any] = {
        "scale": scale,
        "axis": alt.Axis(title=COSTS[cost], tickCount=4, grid=False, labelExpr=label, labelOverlap=True),
    }
    accuracy_domain = domain_of([point[end] for point in points for end in ("low", "high")])
    y: dict[str, Any] = {
        "scale": alt.Scale(domain=list(accuracy_domain), nice=False, zero=False),
        "axis": alt.Axis(title=None, tickCount=5, domain=False, ticks=False),
    }
    base = alt.Chart(inline_data(points))
    paint = alt.Color("color:N", scale=None)
    chart = alt.layer(
        base.mark_rule(strokeWidth=1.75, opacity=0.55).encode(
            x=alt.X("cost:Q", **x), y=alt.Y("low:Q", **y), y2="high:Q", color=paint
        ),
        base.mark_rule(strokeWidth=1.75, opacity=0.55).encode(
            x=alt.X("q1:Q", **x), x2="q3:Q", y=alt.Y("accuracy:Q", **y), color=paint
        ),
        base.mark_point(size=90, filled=True, opacity=1, stroke=PAPER, strokeWidth=0.75).encode(
            x=alt.X("cost:Q", **x), y=alt.Y("accuracy:Q", **y), color=paint, shape=alt.Shape("shape:N", scale=None)
        ),
    ).properties(width=COST_WIDTH, height=220, autosize=_fit(alt))
    return to_svg(chart, name=name, grow=1.35, title=f"Mean test accuracy with 95 % interval against {COSTS[cost]}")


def cost_of(row: RowView, cost: str) -> float | None:
    """A row's cost on one axis: a count, or a median latency."""
    value = getattr(row, cost)
    return value.median_ms if isinstance(value, Timing) else value


def shape_by(rows: Sequence[RowView]) -> dict[str, str]:
    """Each row's point shape: its model's where there are several models, else its unit's."""
    models = list(dict.fromkeys(row.model for row in rows))
    if len(models) == 1:
        return {row.key: shape(row.look) for row in rows}
    return {row.key: SHAPES[models.index(row.model) % len(SHAPES)] for row in rows}


def mean_curve(curves: Sequence[Sequence[float]]) -> list[float]:
    """The mean over seeds, for the epochs that every seed has."""
    shortest = min(len(curve) for curve in curves)
    return [sum(curve[epoch] for curve in curves) / len(curves) for epoch in range(shortest)]


def curve_domain(curves: Sequence[Sequence[float]]) -> tuple[float, float]:
    """An accuracy axis in percent for learning curves: the first quarter of the epochs may fall below it."""
    late = [100 * value for curve in curves for value in curve[len(curve) // 4 :]]
    return domain_of(late)


def domain_of(values: Sequence[float], least: float = 0.4, pad: float = 0.06) -> tuple[float, float]:
    """Limits with some room around the values. The range is never so small that noise looks large."""
    low, high = min(values), max(values)
    centre, half = (low + high) / 2, max(high - low, least) * (0.5 + pad)
    return centre - half, centre + half


def _side_by_side(costs: Sequence[float], log: bool) -> list[float]:
    """Where to draw costs. Costs that (nearly) coincide are drawn side by side, around their true place."""
    low, high = min(costs), max(costs)
    span = max(high - low, 0.12 * high)
    drawn = list(costs)
    for value in dict.fromkeys(costs):
        close = [i for i, other in enumerate(costs) if abs(other - value) <= 0.004 * (value if log else span)]
        for place, index in enumerate(close if close[0] == costs.index(value) else ()):
            shift = place - (len(close) - 1) / 2
            drawn[index] = value * 1.06**shift if log else value + shift * 0.045 * span
    return drawn


def _fit(alt: Any) -> Any:
    return alt.AutoSizeParams(type="fit", contains="padding")


def inline_data(values: list[dict[str, Any]]) -> Any:
    """Records in the form that Altair takes without pandas."""
    import altair as alt

    return alt.InlineData(values=values)


def _spoken(rows: Sequence[RowView]) -> str:
    return "; ".join(f"{row.label} {text.mean_with_interval(row.mean, row.low, row.high)} %" for row in rows)
