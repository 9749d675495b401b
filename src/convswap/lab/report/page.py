"""The self-contained HTML report: one file without scripts, which loads nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ..._version import __version__
from ...page_style import PAGE_STYLE
from ...train.recipes import describe_recipe
from ..files import write_atomic
from ..trial import ENOUGH_SEEDS
from . import charts, costs, robustness, svg, text, view
from .hosts import ranks_over_models
from .sentences import sentences, untested
from .verdict import verdict
from .view import Record, RowView

WIDE, NARROW = 960, 340


_VARIED = {
    "unit": "convolution units",
    "regularize": "regularisers",
    "recipe": "recipes",
    "learning_rate": "learning rates",
}


def write_report(
    lab_dir: str | Path,
    rows: Iterable[Mapping[str, Any]],
    results: Iterable[Record],
    *,
    command: str,
    versions: Mapping[str, Any],
    machine: Mapping[str, Any],
    latency: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    pictures: Sequence[Mapping[str, Any]] = (),
    title: str | None = None,
) -> Path:
    """Write `report.html` into a lab.

    Args:
        lab_dir: the lab's folder. Links to trials are relative to it.
        rows: summary rows, as made by `convswap.lab.summary`. `latency_ms` and `latency_fused_ms` may be a median or a
            mapping with `median_ms`, `q1_ms`, `q3_ms`. `replaced` may be a list of replacements or a plan's dictionary.
        results: one record per trial: `id`, `status` (`"finished"`, `"failed"`, ...), `trial` (its
            description), `result` (what `run_trial` returned, or None) and `traceback` (of a failed one).
        command: the command line that reproduces the lab.
        versions: package name to version.
        machine: facts on the machine that ran the trials.
        latency: the conditions latencies were measured under (threads, repeats, input shape, ...).
        data: further facts on the data beside those in the trials (sizes, class names, ...).
        pictures: groups of `convswap.lab.pictures.report_pictures`.
        title: replaces the title made from the data's name.

    Returns:
        The path of the page. The page is written atomically, so it is never there in part.
    """
    records = list(results)
    page = render(
        view.view_rows(rows),
        records,
        command=command,
        versions=versions,
        machine=machine,
        latency=latency,
        data=data,
        pictures=pictures,
        title=title,
    )
    path = Path(lab_dir) / "report.html"
    write_atomic(path, page)
    return path


def render(
    rows: Sequence[RowView],
    records: Sequence[Record],
    *,
    command: str,
    versions: Mapping[str, Any],
    machine: Mapping[str, Any],
    latency: Mapping[str, Any] | None,
    data: Mapping[str, Any] | None,
    pictures: Sequence[Mapping[str, Any]],
    title: str | None,
) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("convswap.lab.report", "")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = PAGE_STYLE + loader.get_source(environment, "report.css")[0]
    trials = [record["trial"] for record in records]
    names = list(dict.fromkeys(trial["data"] for trial in trials))
    return environment.get_template("report.html.j2").render(
        title=title or _title([row.axis for row in rows], names),
        style=Markup(style),
        palette=Markup(_palette()),
        t=text,
        folder=view.folder,
        last_line=view.last_line,
        color_name=svg.color_name,
        version=__version__,
        created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        verdicts=verdict(rows),
        against=view.against(rows),
        varied=view.varied(rows),
        sentences=sentences(rows),
        untested=untested(rows),
        ranks=ranks_over_models(rows),
        margin=text.value(next((100 * row.tests["margin"] for row in rows if row.tests is not None), None)),
        unkept=any(row.tests is not None and row.tests["new_images"] is None for row in rows),
        groups=view.by_model(rows),
        timed=any(row.latency or row.latency_fused for row in rows),
        fused=any(row.cost_trained is not None or row.parameters_trained is not None for row in rows),
        noisy=any(timing is not None and timing.noisy for row in rows for timing in (row.latency, row.latency_fused)),
        seeds=_seeds(rows),
        enough_seeds=ENOUGH_SEEDS,
        curves=_curves(rows, records),
        costs=_costs(rows),
        vectors_final=costs.table(rows),
        vectors_trained=costs.table(rows, trained=True),
        robustness=[_with_legend(section) for section in robustness.sections(rows)],
        glyphs=_glyphs(rows),
        failed=[record for record in records if record["status"] == "failed"],
        warned=[record for record in records if (record.get("result") or {}).get("warnings")],
        records=records,
        row_of={trial_id: row for row in rows for trial_id in row.trial_ids},
        recipes=_recipes(trials),
        data=_facts(records, data),
        command=command,
        versions=versions,
        machine=machine,
        latency=latency or {},
        pictures=pictures,
    )


def _title(axes: Sequence[str], data: Sequence[str]) -> str:
    """What varies, on which data: `Convolution units and learning rates on digits`.

    >>> _title(["unit", "unit", "learning_rate"], ["digits"])
    'Convolution units and learning rates on digits'
    """
    varied = [_VARIED.get(axis, f"values of {axis}") for axis in dict.fromkeys(axes)] or [_VARIED["unit"]]
    text = " and ".join(varied)
    return f"{text[0].upper()}{text[1:]}" + (f" on {', '.join(data)}" if data else "")


def _palette() -> str:
    """The looks' colours as CSS variables, for light and for dark pages."""
    light = "".join(f"--look{i}:{color};" for i, (color, _) in enumerate(svg.LOOKS))
    dark = "".join(f"--look{i}:{color};" for i, (_, color) in enumerate(svg.LOOKS))
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def _markup(drawing: str | None) -> Any:
    from markupsafe import Markup

    return None if drawing is None else Markup(drawing)


@dataclass(frozen=True)
class _Panel:
    """One small multiple."""

    row: RowView | None
    title: str
    svg: Any


def _seeds(rows: Sequence[RowView]) -> dict[str, tuple[Any, Any]]:
    """For each model, the wide and the narrow chart of its seeds."""
    drawn = {}
    for index, (model, group) in enumerate(view.by_model(rows).items()):
        wide = charts.seeds_chart(group, name=f"seeds{index}w", width=WIDE)
        narrow = charts.seeds_chart(group, name=f"seeds{index}n", width=NARROW)
        if wide is not None and narrow is not None:
            drawn[model] = (_markup(wide), _markup(narrow))
    return drawn


@dataclass(frozen=True)
class _Curves:
    """The learning curves of one model: panels, and the means by epoch as a table."""

    panels: list[_Panel]
    header: list[str]
    table: list[list[str]]
    part: str
    """The part of the data that was watched: `"test"` or `"validation"`."""


def _curves(rows: Sequence[RowView], records: Sequence[Record]) -> dict[str, _Curves]:
    by_id = {record["id"]: record for record in records}
    found: dict[str, _Curves] = {}
    for group in view.by_model(rows).values():
        curves = {row.key: _histories(row, by_id) for row in group}
        shown = [row for row in group if curves[row.key]]
        if not any(len(curve) > 1 for row in shown for curve in curves[row.key]):
            continue  # one epoch is a dot, and the dots are drawn above
        baseline = next((curves[row.key] for row in shown if row.is_baseline), [])
        domain = charts.curve_domain([curve for row in shown for curve in curves[row.key]])
        panels = [
            _Panel(
                row,
                row.label,
                _markup(charts.curve_chart(row, curves[row.key], baseline, domain, name=f"curve-{row.key}")),
            )
            for row in shown
        ]
        means = [charts.mean_curve(curves[row.key]) for row in shown]
        table = [
            [text.percent(mean[epoch]) if epoch < len(mean) else text.NONE for mean in means]
            for epoch in range(max(map(len, means)))
        ]
        watched = _watched(by_id[next(id for row in shown for id in row.trial_ids if id in by_id)])
        found[shown[0].model] = _Curves(panels, [row.label for row in shown], table, watched)
    return found


def _histories(row: RowView, by_id: Mapping[str, Record]) -> list[list[float]]:
    """Accuracy on the watched part by epoch for each finished seed of a row that has a history."""
    curves = []
    for record in (by_id[trial_id] for trial_id in row.trial_ids if trial_id in by_id):
        history, key = (record.get("result") or {}).get("history") or (), f"{_watched(record)}_accuracy"
        curves.append([epoch[key] for epoch in history if epoch.get(key) is not None])
    return [curve for curve in curves if curve]


def _watched(record: Record) -> str:
    history = (record.get("result") or {}).get("history") or ()
    return "validation" if any("validation_accuracy" in epoch for epoch in history) else "test"


def _costs(rows: Sequence[RowView]) -> list[_Panel]:
    panels = []
    for cost, title in charts.COSTS.items():
        drawing = charts.cost_chart(rows, cost, name=f"cost-{cost}")
        if drawing is not None:
            panels.append(_Panel(None, title, _markup(drawing)))
    return panels


_GLYPHS = {
    "circle": '<circle cx="7" cy="7" r="5"/>',
    "square": '<path d="M2.5 2.5h9v9h-9z"/>',
    "triangle-up": '<path d="M7 2l5.5 10h-11z"/>',
    "diamond": '<path d="M7 1l5 6-5 6-5-6z"/>',
    "cross": '<path d="M5 1.5h4V5h3.5v4H9v3.5H5V9H1.5V5H5z"/>',
    "triangle-down": '<path d="M7 12L1.5 2h11z"/>',
    "triangle-right": '<path d="M12 7L2 12.5v-11z"/>',
}


def _glyphs(rows: Sequence[RowView]) -> list[tuple[str, str, Any]]:
    """The legend: name, CSS colour variable and drawn shape. Shapes stand for models where there are several."""
    shapes = charts.shape_by(rows)
    models = view.by_model(rows)
    units: dict[str, tuple[str, str]] = {}
    for row in sorted(rows, key=lambda row: row.look):
        units.setdefault(row.label, (svg.color_name(row.look), "circle" if len(models) > 1 else shapes[row.key]))
    legend = [(label, paint, _markup(_GLYPHS[shape])) for label, (paint, shape) in units.items()]
    if len(models) > 1:
        legend += [(model, "--muted", _markup(_GLYPHS[shapes[group[0].key]])) for model, group in models.items()]
    return legend


def _with_legend(section: robustness.Section) -> dict[str, Any]:
    """A section of the page that shows one model alone, with its own legend and its drawings marked as such."""
    drawings = {"wide": _markup(section.wide), "narrow": _markup(section.narrow)}
    return {**vars(section), **drawings, "legend": _glyphs(section.rows)}


def _recipes(trials: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Each different recipe as a column, each setting as a line."""
    recipes: dict[str, Mapping[str, Any]] = {}
    counts: dict[str, int] = {}
    for trial in trials:
        key = json.dumps(trial.get("recipe") or {}, sort_keys=True, default=str)
        recipes.setdefault(key, trial.get("recipe") or {})
        counts[key] = counts.get(key, 0) + 1
    names = list(dict.fromkeys(name for recipe in recipes.values() for name in recipe))
    header = [f"{n} trial{'s' if n != 1 else ''}" for n in counts.values()]
    nearest = [("recipe", [describe_recipe(recipe) if recipe else text.NONE for recipe in recipes.values()])]
    return header, nearest + [(name, [text.value(recipe.get(name)) for recipe in recipes.values()]) for name in names]


_DATA_FACTS = {
    "data": "name",
    "image_size": "image size",
    "data_options": "options",
    "data_fingerprint": "fingerprint",
}


def _facts(records: Sequence[Record], data: Mapping[str, Any] | None) -> dict[str, str]:
    """The known facts on the data: first from the trials and their results, then from the caller."""
    trials = [record["trial"] for record in records]
    facts: dict[str, str] = {}
    described = [(record.get("result") or {}).get("data") or {} for record in records]
    if lines := dict.fromkeys(found["line"] for found in described if "line" in found):
        facts["content"] = " | ".join(lines)
    for key, name in _DATA_FACTS.items():
        values = dict.fromkeys(text.value(trial[key]) for trial in trials if trial.get(key))
        if values:
            facts[name] = ", ".join(values)
    return facts | {key.replace("_", " "): text.value(value) for key, value in (data or {}).items()}
