"""The robustness in summary rows: each score over the seeds, against the baseline, and accuracy by condition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from ...measure.statistics import compare_to_baseline, holm, mean_interval
from .files import RobustnessFiles

Row = dict[str, Any]

SCORES = (
    *("accuracy", "corruption_accuracy", "rotation_bilinear_accuracy", "shift_consistency"),
    *("jpeg_changed", "flip_changed", "ece"),
)
"""The headline numbers, of `Robustness.summary`."""

_FAMILIES = {
    "jpeg": "JPEG qualities",
    "shifts_reflect": "shifts",
    "rotation_bilinear_black": "rotations",
    "shear_bilinear_black": "shears",
    "quarter_turns": "quarter turns",
}


def add_robustness(rows: Sequence[Row], files: RobustnessFiles, enough_seeds: int) -> None:
    """Fill in `robustness` for the rows of one setting. It stays None where nothing was measured.

    Rows are compared on one profile, the one measured for most trials. With fewer seeds than a test needs, units are
    not compared. Then only the two trained networks of one seed are compared, paired by image.
    """
    profile = _profile(rows, files)
    if profile is None:
        return
    measured = [_Measured(row, profile, files) for row in rows]
    tested = [one for one in measured if len(one.results) >= enough_seeds]
    for one in measured:
        if one.results:
            one.row["robustness"] = one.summary()
    baseline = next((one for one in measured if one.row["is_baseline"] and one.results), None)
    if baseline is None:
        return
    others = [one for one in measured if one is not baseline and one.results]
    compared = [one for one in others if one in tested and baseline in tested]
    for name in SCORES:
        _compare(name, baseline, compared)
    for one in others:
        if one not in compared:
            one.row["robustness"]["paired"] = one.paired_with(baseline)


class _Measured:
    """A row with its trials' results of one profile. Their predictions are read again when needed."""

    def __init__(self, row: Row, profile: str, files: RobustnessFiles) -> None:
        self.row, self.profile, self.files = row, profile, files
        ids = dict(zip(row["seeds"], row["trial_ids"], strict=True))
        self.ids = {seed: id for seed, id in ids.items() if profile in files.profiles(id)}
        self.results = [files.read(id, profile).as_dict(with_predictions=False) for id in self.ids.values()]

    def values(self, name: str) -> list[float]:
        return [result["summary"][name] for result in self.results if name in result["summary"]]

    def summary(self) -> Row:
        first = self.results[0]
        return {
            **{key: first[key] for key in ("profile", "seed", "images", "left_out")},
            "n": len(self.results),
            "scores": {name: _interval(values) for name in SCORES if (values := self.values(name))},
            "conditions": _conditions(self.results),
            "paired": None,
        }

    def paired_with(self, baseline: _Measured) -> Row | None:
        """Differences of accuracy by family, paired by image, between the two networks of the first common seed."""
        from ...measure.robustness import compare_paired

        seed = next((seed for seed in self.ids if seed in baseline.ids), None)
        if seed is None:
            return None
        mine, other = (one.files.read(one.ids[seed], one.profile) for one in (self, baseline))
        families = {"clean": ["clean"]} | {
            name: _changing(mine.curves[family])
            for family, name in {"corruptions": "corruptions", **_FAMILIES}.items()
            if family in mine.curves
        }
        return {
            "seed": seed,
            "differences": {
                name: compare_paired(mine.predictions, other.predictions, variants).as_dict()
                for name, variants in families.items()
            },
        }


def _profile(rows: Iterable[Row], files: RobustnessFiles) -> str | None:
    """The profile measured for most trials. If both were measured equally often, the full one."""
    counts: dict[str, int] = {}
    for id in (id for row in rows for id in row["trial_ids"]):
        for profile in files.profiles(id):
            counts[profile] = counts.get(profile, 0) + 1
    return max(counts, key=lambda profile: (counts[profile], profile == "full"), default=None)


def _interval(values: Sequence[float]) -> Row:
    spread = mean_interval(values)
    compared = dict.fromkeys(("difference", "diff_low", "diff_high", "p_value", "p_holm"))
    return {"mean": spread.mean, "low": spread.low, "high": spread.high} | compared


def _compare(name: str, baseline: _Measured, others: Sequence[_Measured]) -> None:
    """The same statistics as for accuracy, corrected for the number of units."""
    tested = [one for one in others if name in one.row["robustness"]["scores"] and baseline.values(name)]
    found = [compare_to_baseline(one.values(name), baseline.values(name)) for one in tested]
    corrected = holm([comparison.p_value for comparison in found])
    for one, comparison, p_holm in zip(tested, found, corrected, strict=True):
        one.row["robustness"]["scores"][name] |= {
            "difference": comparison.difference,
            "diff_low": comparison.low,
            "diff_high": comparison.high,
            "p_value": comparison.p_value,
            "p_holm": p_holm,
        }


def _conditions(results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Accuracy by condition. Each condition has a group, a name and an interval over the seeds."""
    by_result = [_accuracies(result) for result in results]
    found = []
    for group, name in by_result[0]:
        spread = mean_interval([accuracies[group, name] for accuracies in by_result])
        found.append({"group": group, "name": name, "mean": spread.mean, "low": spread.low, "high": spread.high})
    return found


def _accuracies(result: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """Accuracy of one network by group and condition, averaged over severities (corruptions) or variants (others)."""
    from ...measure.robustness import GROUPS

    curves = result["curves"]
    found: dict[tuple[str, str], float | None] = {("clean", "clean"): result["summary"]["accuracy"]}
    corruptions = curves.get("corruptions", {}) | curves.get("held_out", {})
    for group, members in GROUPS.items():
        for member in members:
            found[group.replace("_", " "), member.replace("_", " ")] = _mean(corruptions, f"{member}/")
    for family, name in _FAMILIES.items():
        if family in curves:
            found["other", name] = _mean(curves[family])
    if "flips" in curves:
        found["other", "mirrored"] = curves["flips"]["flip/horizontal"]["accuracy"]
    return {key: value for key, value in found.items() if value is not None}


def _mean(curve: Mapping[str, Mapping[str, float]], start: str = "") -> float | None:
    values = [curve[name]["accuracy"] for name in _changing(curve) if name.startswith(start)]
    return fmean(values) if values else None


def _changing(curve: Mapping[str, Any]) -> list[str]:
    """The variants that change the image. Angle 0 and a shift by 0 are left out: the others are compared with them."""
    return [name for name in curve if name.rpartition("/")[2] not in ("0", "0,0")]
