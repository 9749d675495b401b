"""The report's section on robustness: headline scores, accuracy by condition, and what was left out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...measure.statistics import smallest_p_value
from ..decide import LEVEL
from . import text
from .charts import domain_of, inline_data, shape_by
from .svg import GRID, INK, PAPER, color, to_svg
from .view import RowView, by_model

WIDE, NARROW = 960, 340
LABEL_WIDTH = 120


@dataclass(frozen=True)
class Score:
    """A headline number: its name in `Robustness.summary`, its column heading, and a short heading for the terminal."""

    name: str
    heading: str
    short: str
    higher_is_better: bool


SCORES = (
    Score("accuracy", "clean accuracy", "clean", True),
    Score("corruption_accuracy", "accuracy, corrupted", "corrupted", True),
    Score("rotation_bilinear_accuracy", "accuracy, rotated", "rotated", True),
    Score("shift_consistency", "same answer when shifted", "shift-same", True),
    Score("jpeg_changed", "answers changed by JPEG", "JPEG-changed", False),
    Score("flip_changed", "answers changed by mirroring", "flip-changed", False),
    Score("ece", "calibration error", "ECE", False),
)


@dataclass(frozen=True)
class Cell:
    """One score of one row. `verdict` is `"better"`, `"worse"` or empty, compared with conv at 95 %."""

    value: str
    difference: str = ""
    interval: str = ""
    p_value: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Section:
    """The robustness of one model's units."""

    model: str
    rows: list[RowView]
    scores: list[Score]
    cells: list[list[Cell]]
    """By row and score."""
    conditions: list[tuple[str, list[str]]]
    """Name of a condition, and the accuracy of each row."""
    paired_names: list[str]
    paired: list[tuple[RowView, int, list[Cell]]]
    """Row, seed, and differences by family, for rows that have too few seeds."""
    profile: str
    images: int
    seed: int
    left_out: dict[str, str]
    unmeasured: list[str]
    """Units that are trained but not measured."""
    compared: bool
    """Whether any unit has enough seeds to be compared with conv."""
    hopeless: bool
    """Whether no difference could reach 95 % with these seeds."""
    wide: str
    narrow: str


def sections(rows: Sequence[RowView]) -> list[Section]:
    """One section for each model with a measurement."""
    found = []
    for index, (model, group) in enumerate(by_model(rows).items()):
        shown = [row for row in group if row.robustness is not None]
        if shown:
            missing = [row.label for row in group if row.n and row.robustness is None]
            found.append(_section(model, shown, missing, f"robust{index}"))
    return found


def present(rows: Sequence[RowView]) -> list[Score]:
    """The headline numbers that these rows have."""
    return [score for score in SCORES if any(score.name in _of(row)["scores"] for row in rows if row.robustness)]


def cell(row: RowView, score: Score) -> Cell:
    """A row's score as text."""
    value = _of(row)["scores"].get(score.name) if row.robustness else None
    if value is None:
        return Cell(text.NONE)
    shown = text.mean_with_interval(value["mean"], value["low"], value["high"])
    if value["difference"] is None:
        return Cell(shown)
    good = (value["difference"] > 0) == score.higher_is_better
    return Cell(
        shown,
        text.points(value["difference"]),
        text.points_interval(value["diff_low"], value["diff_high"]),
        text.p_value(value["p_holm"]),
        ("better" if good else "worse") if value["p_holm"] <= LEVEL else "",
    )


def _of(row: RowView) -> Mapping[str, Any]:
    if row.robustness is None:
        raise AssertionError(f"the robustness of {row.label} was not measured")
    return row.robustness


def _section(model: str, rows: list[RowView], unmeasured: list[str], name: str) -> Section:
    first = _of(rows[0])
    scores = present(rows)
    names = [condition["name"] for condition in first["conditions"]]
    by_row = [{c["name"]: c for c in _of(row)["conditions"]} for row in rows]
    paired = [(row, found) for row in rows if (found := _of(row)["paired"]) is not None]
    compared = [row for row in rows if any(s["difference"] is not None for s in _of(row)["scores"].values())]
    families = list(dict.fromkeys(family for _, found in paired for family in found["differences"]))
    return Section(
        model=model,
        rows=rows,
        scores=scores,
        cells=[[cell(row, score) for score in scores] for row in rows],
        conditions=[(name, [_interval(conditions.get(name)) for conditions in by_row]) for name in names],
        paired_names=families,
        paired=[
            (row, found["seed"], [_paired(found["differences"].get(family)) for family in families])
            for row, found in paired
        ],
        **{key: first[key] for key in ("profile", "images", "seed", "left_out")},
        unmeasured=unmeasured,
        compared=bool(compared),
        hopeless=bool(compared) and all(lowest > LEVEL for lowest in _smallest_p(rows, compared)),
        wide=chart(rows, name=f"{name}w", width=WIDE),
        narrow=chart(rows, name=f"{name}n", width=NARROW),
    )


def _smallest_p(rows: Sequence[RowView], compared: Sequence[RowView]) -> list[float]:
    """For each compared row, the smallest corrected p-value that its seeds and the baseline's can give."""
    baseline = next(_of(row)["n"] for row in rows if row.is_baseline)
    return [smallest_p_value(_of(row)["n"], baseline, len(compared)) for row in compared]


def _interval(condition: Mapping[str, Any] | None) -> str:
    return text.NONE if condition is None else text.mean_with_interval(*(condition[k] for k in ("mean", "low", "high")))


def _paired(found: Mapping[str, Any] | None) -> Cell:
    if found is None:
        return Cell(text.NONE)
    interval = text.points_interval(found["low"], found["high"])
    return Cell(text.points(found["difference"]), interval=interval, p_value=text.p_value(found["p_value"]))


def chart(rows: Sequence[RowView], *, name: str, width: int) -> str:
    """Accuracy of every unit under every condition, side by side, with 95 % intervals where there are enough seeds."""
    import altair as alt

    names = [condition["name"] for condition in _of(rows[0])["conditions"]]
    groups = [condition["group"] for condition in _of(rows[0])["conditions"]]
    shapes = shape_by(rows)
    points = []
    for lane, row in enumerate(rows):
        shift = 0.76 * ((lane + 0.5) / len(rows) - 0.5)
        for condition in _of(row)["conditions"]:
            ends = [100 * (condition["mean"] if condition[k] is None else condition[k]) for k in ("low", "high")]
            points.append(
                {
                    "y": names.index(condition["name"]) + shift,
                    "accuracy": 100 * condition["mean"],
                    "low": max(0.0, ends[0]),
                    "high": min(100.0, ends[1]),
                    "color": color(row.look),
                    "shape": shapes[row.key],
                }
            )
    low, high = domain_of([point[end] for point in points for end in ("low", "high")])
    x: dict[str, Any] = {
        "scale": alt.Scale(domain=[max(0.0, low), min(100.0, high)], nice=False, zero=False),
        "axis": alt.Axis(title="accuracy, %", tickCount=5 if width < 500 else 8, domain=False),
    }
    y: dict[str, Any] = {
        "scale": alt.Scale(domain=[-0.5, len(names) - 0.5], reverse=True, nice=False, zero=False),
        "axis": alt.Axis(
            title=None,
            values=list(range(len(names))),
            labelExpr=f"({json.dumps(names)})[datum.value]",
            labelColor=INK,
            labelFontSize=13,
            labelLimit=LABEL_WIDTH,
            ticks=False,
            domain=False,
            grid=False,
            labelPadding=10,
        ),
    }
    lines = [{"y": i + 0.5, "weight": 1.5 if groups[i] != groups[i + 1] else 0.5} for i in range(len(names) - 1)]
    base = alt.Chart(inline_data(points))
    paint = alt.Color("color:N", scale=None)
    drawn = alt.layer(
        alt.Chart(inline_data(lines or [{"y": 0.5, "weight": 0}]))
        .mark_rule(color=GRID)
        .encode(y=alt.Y("y:Q", **y), strokeWidth=alt.StrokeWidth("weight:Q", scale=None)),
        base.mark_rule(strokeWidth=2, opacity=0.5).encode(
            x=alt.X("low:Q", **x), x2="high:Q", y=alt.Y("y:Q", **y), color=paint
        ),
        base.mark_point(size=64, filled=True, opacity=1, stroke=PAPER, strokeWidth=0.75).encode(
            x=alt.X("accuracy:Q", **x), y=alt.Y("y:Q", **y), color=paint, shape=alt.Shape("shape:N", scale=None)
        ),
    ).properties(
        width=width,
        height=len(names) * max(24, 10 * len(rows)),
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    )
    return to_svg(drawn, name=name, title=f"Accuracy by condition: {_spoken(rows)}", grow=1.5 if width < 500 else 1.125)


def _spoken(rows: Sequence[RowView]) -> str:
    """Each unit's clean accuracy and its worst condition, for readers who cannot see the chart."""
    parts = []
    for row in rows:
        clean, *others = _of(row)["conditions"]
        worst = min(others, key=lambda condition: condition["mean"], default=clean)
        parts.append(
            f"{row.label} {text.percent(clean['mean'])} % clean, least under {worst['name']}: "
            f"{text.percent(worst['mean'])} %"
        )
    return "; ".join(parts)
