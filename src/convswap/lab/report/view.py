"""Summary rows and trial records in the form that the table and the page show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from ...surgery.latency import spread_too_wide
from ...surgery.mixture import mixture_text
from ..mixed import is_mixed, short_id
from ..trial import ENOUGH_SEEDS
from . import text

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Timing:
    """A measured latency. The quartiles are None where only the median is known."""

    median_ms: float
    q1_ms: float | None = None
    q3_ms: float | None = None
    spoilt: bool = False

    @property
    def noisy(self) -> bool:
        """Whether the quartiles are too far apart (`Latency.noise`), or `Latency.noise` gave another reason."""
        if self.spoilt or self.q1_ms is None or self.q3_ms is None:
            return self.spoilt
        return spread_too_wide(self.median_ms, self.q1_ms, self.q3_ms)

    @classmethod
    def of(cls, value: Any) -> Timing | None:
        """Read a number of milliseconds, a mapping such as `Latency.as_dict()`, a `Latency`, or None."""
        if value is None:
            return None
        if isinstance(value, int | float):
            return cls(float(value))
        if isinstance(value, Mapping):
            return cls(value["median_ms"], value.get("q1_ms"), value.get("q3_ms"), bool(value.get("noisy")))
        return cls(value.median_ms, value.q1_ms, value.q3_ms, value.noisy)


@dataclass(frozen=True)
class RowView:
    """One summary row: a variant of a model (a unit, a recipe), over its seeds."""

    model: str
    axis: str
    """What varies between the rows of the model."""
    variant: str
    """The name of the row: its unit, or its recipe."""
    is_baseline: bool
    """Whether the other rows are compared with this row."""
    unit: str
    options: str
    where: str | None
    label: str
    """The shortest name that distinguishes the row from the others of its model."""
    look: int
    """The number of the row's colour and shape. The baseline has 0."""
    key: str
    """An identifier for anchors within the page."""
    n: int
    failed: int
    ranked: bool
    accuracies: tuple[float, ...]
    trial_ids: tuple[str, ...]
    mean: float | None
    low: float | None
    high: float | None
    difference: float | None
    diff_low: float | None
    diff_high: float | None
    p_value: float | None
    p_holm: float | None
    probability_better: float | None
    tests: Mapping[str, Any] | None
    """Further statistics, see `lab.summary.summarize`."""
    parameters: int | None
    """For the fused network, which runs in the end. As trained, if the network was not fused."""
    macs: int | None
    parameters_trained: int | None
    """As trained, if that number differs."""
    macs_trained: int | None
    latency: Timing | None
    latency_fused: Timing | None
    cost: Mapping[str, Any] | None = None
    """The cost vector of the network that runs in the end, see `measure.cost`."""
    cost_trained: Mapping[str, Any] | None = None
    """As trained, if a vector was counted after `fuse`, too."""
    robustness: Mapping[str, Any] | None = None
    """Scores, conditions and differences, see `lab.robustness.summary`."""
    replacements: list[Mapping[str, Any]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_mixed(self) -> bool:
        """Whether the row has several units, see `lab.mixed`."""
        return is_mixed(self.unit)

    @property
    def detail(self) -> str:
        """Options and placement, as one muted line below the unit's name."""
        return ", ".join(part for part in (self.options, f"where {self.where}" if self.where else "") if part)

    @property
    def missing(self) -> str:
        """The reason why there is no number, or an empty text."""
        return "" if self.n else ("every trial failed" if self.failed else "no finished trial")


def view_rows(rows: Iterable[Mapping[str, Any]]) -> list[RowView]:
    """Read and order summary rows. Models stay as given. In each, ranked rows come first, by mean, then the others."""
    given = list(rows)
    labels = _labels(given)
    looks: dict[str, int] = {}
    for row, label in zip(given, labels, strict=True):
        if not row["is_baseline"]:
            looks.setdefault(label, len(looks) + 1)
    views = [
        _view(row, label, looks.get(label, 0), f"row{index}")
        for index, (row, label) in enumerate(zip(given, labels, strict=True))
    ]
    models = list(dict.fromkeys(view.model for view in views))

    def order(view: RowView) -> tuple[int, bool, float]:
        return models.index(view.model), not view.ranked, -(view.mean if view.mean is not None else -1.0)

    return sorted(views, key=order)


def by_model(rows: Sequence[RowView]) -> dict[str, list[RowView]]:
    """The rows of each model, in the same order."""
    groups: dict[str, list[RowView]] = {}
    for row in rows:
        groups.setdefault(row.model, []).append(row)
    return groups


def against(rows: Sequence[RowView]) -> str:
    """What the rows are compared with: `conv`, or `the baseline` where several comparisons have several."""
    names = list(dict.fromkeys(row.variant for row in rows if row.is_baseline))
    return names[0] if len(names) == 1 else "the baseline"


def varied(rows: Sequence[RowView]) -> str:
    """What varies between the rows: `unit`, `recipe`, ..., or `variant` where several things do."""
    names = list(dict.fromkeys(row.axis for row in rows))
    return names[0].replace("_", " ") if len(names) == 1 else "variant"


def folder(trial_id: str) -> str:
    """A trial's folder, relative to the lab, as a link."""
    return f"trials/{quote(trial_id, safe='')}/"


def last_line(traceback: str | None) -> str:
    """The line of a traceback that says what happened."""
    lines = [line.strip() for line in (traceback or "").splitlines() if line.strip()]
    return lines[-1] if lines else "no traceback was recorded"


def _view(row: Mapping[str, Any], label: str, look: int, key: str) -> RowView:
    replacements, skipped = _plan(row.get("replaced"))
    accuracies = tuple(row.get("accuracies") or ())
    n = row.get("n_seeds", len(accuracies))
    copied = ["mean", "low", "high", "difference", "diff_low", "diff_high", "p_value", "p_holm"]
    copied += ["probability_better", "tests"]
    parameters, parameters_trained = _cost(row, "parameters")
    macs, macs_trained = _cost(row, "macs")
    cost, cost_trained = _cost(row, "cost")
    return RowView(
        model=row["model"],
        axis=row["axis"],
        variant=row["variant"],
        is_baseline=row["is_baseline"],
        unit=row["unit"],
        options=_options(row),
        where=row.get("where"),
        label=label,
        look=look,
        key=key,
        n=n,
        failed=row.get("failed", 0),
        ranked=bool(row.get("ranked", True)) and n >= ENOUGH_SEEDS,
        accuracies=accuracies,
        trial_ids=tuple(row.get("trial_ids") or ()),
        parameters=parameters,
        macs=macs,
        parameters_trained=parameters_trained,
        macs_trained=macs_trained,
        latency=Timing.of(row.get("latency_ms")),
        latency_fused=Timing.of(row.get("latency_fused_ms")),
        cost=cost,
        cost_trained=cost_trained,
        robustness=row.get("robustness"),
        replacements=replacements,
        skipped=skipped,
        **{name: row.get(name) for name in copied},
    )


def _cost(row: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    """A cost of the network that runs in the end, and the same cost in training if it differs."""
    trained, fused = row.get(name), row.get(f"{name}_fused")
    return (trained, None) if fused is None or fused == trained else (fused, trained)


def _plan(replaced: Any) -> tuple[list[Mapping[str, Any]], list[tuple[str, str]]]:
    """Replacements and skips from a plan's dictionary, or from a plain list of replacements."""
    if not replaced:
        return [], []
    if not isinstance(replaced, Mapping):
        return list(replaced), []
    skipped = [
        (skip["path"], skip["reason"]) if isinstance(skip, Mapping) else (skip[0], skip[1])
        for skip in replaced.get("skipped", ())
    ]
    return list(replaced.get("replacements", ())), skipped


def _options(row: Mapping[str, Any]) -> str:
    options = row.get("options") or {}
    return mixture_text(options) if is_mixed(row["unit"]) else text.options(options)


def _labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The variant's name, with options or placement only if a model has a unit more than once."""
    labels = []
    for row in rows:
        peers = [r for r in rows if (r["model"], r["variant"]) == (row["model"], row["variant"])]
        parts = [row["variant"]]
        if any((r.get("options") or {}) != (row.get("options") or {}) for r in peers) and row.get("options"):
            parts.append(short_id(row["options"]) if is_mixed(row["unit"]) else text.options(row["options"]))
        if any(r.get("where") != row.get("where") for r in peers) and row.get("where"):
            parts.append(f"where {row['where']}")
        labels.append(" ".join(parts))
    return labels
