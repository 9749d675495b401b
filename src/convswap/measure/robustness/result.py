"""What `robustness` returns: scores by name, and the predictions from which they follow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import StoreError, UsageError
from ...files import write_atomically
from .paired import PairedDifference, compare_paired
from .table import Predictions

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Robustness:
    """The robustness of one model on one set of images.

    All shares are fractions of 1. `changed` is the share of predictions that differ from the reference's (times 100:
    POCP).

    Attributes:
        profile: `"quick"` or `"full"`.
        seed: seed of the perturbations. Results of one seed and one set of images are paired.
        images: how many.
        summary: one number each: `accuracy`, `corruption_accuracy` (mean over corruptions and severities),
            `corruption_accuracy_<group>`, `jpeg_changed`, `shift_consistency` (`scores.all_pairs_consistency`, padded
            by reflection), `shift_flip_probability_circular`, `rotation_accuracy` (bilinear), `ece`, ...
        curves: by family and variant, `accuracy` and `changed`.
        flip_rates: by family of shifts along a line, the flip rate by steps apart (`scores.flip_rate`).
        divergences: mean KL divergence of the answer to an enlarged image's shift, by pixels; empty in `"quick"`.
        calibration: of the clean images, see `calibration.Calibration`.
        left_out: families and variants that do not suit these images, with the reason.
        predictions: of every image in every variant.
    """

    profile: str
    seed: int
    images: int
    summary: dict[str, float]
    curves: dict[str, dict[str, dict[str, float]]]
    flip_rates: dict[str, list[float]]
    divergences: dict[str, float]
    calibration: dict[str, Any]
    left_out: dict[str, str]
    predictions: Predictions

    def as_dict(self, *, with_predictions: bool = True) -> dict[str, Any]:
        """Everything, for JSON. Without the predictions it is small, but cannot be compared in pairs."""
        found = {"format": _FORMAT, **{name: getattr(self, name) for name in _PLAIN}}
        return found | ({"predictions": self.predictions.as_dict()} if with_predictions else {})

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Robustness:
        """The result `as_dict` wrote.

        Raises:
            StoreError: the record has another format or no predictions.
        """
        if saved.get("format") != _FORMAT or "predictions" not in saved or any(name not in saved for name in _PLAIN):
            raise StoreError(f"this is not a robustness result of format {_FORMAT} with predictions")
        plain = {name: saved[name] for name in _PLAIN}
        return cls(**plain, predictions=Predictions.from_dict(saved["predictions"]))

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, the whole file or none of it.

        Raises:
            StoreError: the file cannot be written.
        """
        write_atomically(Path(path), json.dumps(self.as_dict(), allow_nan=False).encode())

    @classmethod
    def load(cls, path: str | Path) -> Robustness:
        """Read what `save` wrote."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise StoreError(f"{path} is not a robustness result: {error}") from error

    def compare(self, other: Robustness, resamples: int = 2000) -> dict[str, PairedDifference]:
        """Accuracy of this model minus the other's: clean and by family, paired by image.

        Raises:
            UsageError: the two results are of different images or perturbations.
        """
        mine = (self.profile, self.seed, self.predictions.variants)
        if mine != (other.profile, other.seed, other.predictions.variants):
            raise UsageError("other has different perturbations; compare results of one profile, seed and data set")
        variants = {"clean": ["clean"]} | {family: list(curve) for family, curve in self.curves.items()}
        return {
            family: compare_paired(self.predictions, other.predictions, names, resamples=resamples)
            for family, names in variants.items()
        }


_PLAIN = (
    *("profile", "seed", "images", "summary", "curves", "flip_rates", "divergences", "calibration"),
    "left_out",
)
