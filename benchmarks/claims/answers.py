"""The claims on answers: Min-Nets under JPEG, and the modulus stem under shifts; networks paired by training seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from benchmarks.claims.rules import Number, over_seeds
from convswap.measure.robustness import (
    Perturbation,
    Predictions,
    Sample,
    all_pairs_consistency,
    all_shifts,
    clean,
    enlarged_shifts,
    flip_rate,
    jpeg_sweep,
    predict,
)

MILD = (90, 80, 70, 60, 50)
"""The qualities that decide: those the paper's figure shows."""
ORDERS = {"rgb": "jpeg", "minnets_bgr": "jpeg_minnets_bgr"}
"""Channel orders of the codec, and what their variants are called."""
REACH = 4
"""The largest shift, in pixels, of the CMod paper on CIFAR."""


def jpeg_variants() -> list[Perturbation]:
    """All qualities of the paper with the right channel order, and the deciding ones with the authors'."""
    return [clean(), *jpeg_sweep(), *jpeg_sweep(MILD, "minnets_bgr")]


def jpeg_answers(model: nn.Module, sample: Sample) -> dict[str, Any]:
    """Clean error; and by channel order and quality the error and the part of changed predictions."""
    variants = jpeg_variants()
    table = predict(model, sample, variants)
    rows: dict[str, Any] = {"error": table.error("clean")}
    for order, name in ORDERS.items():
        qualities = [v.name.partition("/")[2] for v in variants if v.name.startswith(f"{name}/")]
        rows[order] = {
            q: {"error": table.error(f"{name}/{q}"), "changed": table.changed(f"{name}/{q}")} for q in qualities
        }
    return rows


def jpeg_sensitivity(answers: Mapping[str, Any], order: str) -> dict[str, float]:
    """Over the mild qualities: mean part of changed predictions, and mean rise of the error."""
    rows = [answers[order][str(quality)] for quality in MILD]
    return {
        "changed": sum(row["changed"] for row in rows) / len(rows),
        "rise": sum(row["error"] - answers["error"] for row in rows) / len(rows),
    }


def jpeg_numbers(minimum: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]]) -> dict[str, Number]:
    """Minimum blocks minus pyramid blocks, paired by seed."""
    numbers = {}
    for order in ORDERS:
        pairs = [(jpeg_sensitivity(a, order), jpeg_sensitivity(b, order)) for a, b in zip(minimum, plain, strict=True)]
        for score in ("changed", "rise"):
            numbers[f"jpeg_{score}_{order}"] = over_seeds([a[score] - b[score] for a, b in pairs])
    return numbers


def shift_answers(model: nn.Module, sample: Sample) -> dict[str, Any]:
    """Clean accuracy, horizontal flip rates at 1 to 4 px, and consistency over all shifts by up to a pixel."""
    line, around = enlarged_shifts(sample.images.shape[-1], REACH), all_shifts(1)
    table = predict(model, sample, [clean(), *around, *line])
    return {
        "accuracy": table.accuracy("clean"),
        "flips": [flip_rate(_of(table, line), k) for k in range(1, REACH + 1)],
        "consistency": all_pairs_consistency(_of(table, around)),
    }


def _of(table: Predictions, variants: Sequence[Perturbation]) -> Any:
    return table.columns([variant.name for variant in variants])


def shift_numbers(answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Number]:
    """Flip rate at one pixel, horizontally, of the modulus minus that of each other stem, paired by seed."""
    return {
        f"shift_{other}": over_seeds(
            [a["flips"][0] - b["flips"][0] for a, b in zip(answers["modulus"], answers[other], strict=True)]
        )
        for other in ("max", "plain", "blur")
    }
