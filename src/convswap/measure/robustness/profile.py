"""All measures of a model's robustness in one call and one result."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from torch import nn

from ...data import Data
from ...errors import check_whole
from .calibration_error import calibration
from .corruptions import GROUPS
from .perturbation import Perturbation, clean
from .predictions import Sample, predict, sample_of
from .result import Robustness
from .scores import all_pairs_consistency, flip_probability, flip_rate, shift_divergence
from .table import Predictions
from .variants import Families, Shape, families

_LOGITS = 2**28  # numbers kept at most for the divergences: 1 GiB


def robustness(
    model: nn.Module,
    dataset: Data | Sample,
    profile: str = "quick",
    *,
    images: int | None = None,
    seed: int = 0,
    parameters: str = "auto",
    device: str = "auto",
    batch_size: int | None = None,
    progress: bool = True,
) -> Robustness:
    """How a classifier's answers stand up to corruptions, JPEG, shifts, rotations and flips, and its calibration.

    Every model sees the same perturbed images for one seed, so differences between models are paired
    (`Robustness.compare`). The model's modes are restored afterwards.

    Args:
        model: a classifier of uint8 images that are normalised by the data set's mean and standard deviation.
        dataset: a data set, whose test images are taken, or a `Sample`.
        profile: `"quick"` (each corruption at severity 3, three JPEG qualities, shifts by a pixel, a few angles; at
            most 1,000 images unless `images` says otherwise) or `"full"` (all severities, qualities and angles).
        images: how many test images.
        seed: of the perturbations.
        parameters: of the corruptions: `"cifar"`, `"imagenet"` or `"auto"` (by image size).
        device: where the model runs: `"auto"`, `"cpu"`, `"cuda"`, ...
        batch_size: images at a time, by default as many as suit the image size; changes only speed and memory.
        progress: draw a bar on a terminal.

    Raises:
        UsageError: an argument is not allowed; the model's answers are not finite, or have fewer classes than labels.
        DataError: the data set has no test images.
    """
    from ...train.precision import resolve_device

    if batch_size is not None:
        check_whole("batch_size", batch_size)
    check_whole("seed", seed, None)
    place = resolve_device(device)
    limit = 1000 if images is None and profile == "quick" else images
    sample = sample_of(dataset, limit)
    _, channels, height, width = sample.images.shape
    alike = dataset.flip if isinstance(dataset, Data) else True
    found, left_out = families(profile, Shape(channels, height, width, alike), parameters)
    wanted = {variant.name: variant for family in [[clean()], *found.values()] for variant in family}
    moved = [variant.name for variant in found.get("shifts_enlarged", [])]
    classes = 1 + int(sample.labels.max())
    if len(moved) * len(sample) * classes > _LOGITS:
        left_out["divergences"] = "the logits would not fit in memory; give fewer images"
        moved = []
    table = predict(
        model,
        sample,
        list(wanted.values()),
        seed=seed,
        batch_size=max(1, min(256, 2**21 // (height * width))) if batch_size is None else batch_size,
        device=place,
        logits_of=["clean", *moved],
        progress=progress,
    )
    calibrated = calibration(table.logits["clean"], table.labels)
    return Robustness(
        profile=profile,
        seed=seed,
        images=len(sample),
        summary=_summary(table, found) | {"ece": calibrated.ece, "nll": calibrated.nll, "brier": calibrated.brier},
        curves={family: _curve(table, family, variants) for family, variants in found.items()},
        flip_rates=_flip_rates(table, found),
        divergences={name: shift_divergence(table.logits[moved[0]], table.logits[name]) for name in moved[1:]},
        calibration=calibrated.as_dict(),
        left_out=left_out,
        predictions=table,
    )


def _reference(family: str, variants: list[Perturbation]) -> str:
    """A variant's reference: masked and enlarged images are compared with themselves unmoved, others with clean."""
    if family.endswith("_masked") or family == "shifts_enlarged":
        return next(variant.name for variant in variants if variant.severity == 0)
    return "clean"


def _curve(table: Predictions, family: str, variants: list[Perturbation]) -> dict[str, dict[str, float]]:
    reference = _reference(family, variants)
    return {
        variant.name: {"accuracy": table.accuracy(variant.name), "changed": table.changed(variant.name, reference)}
        for variant in variants
    }


def _flip_rates(table: Predictions, found: Families) -> dict[str, list[float]]:
    lines = {family: _names(found[family]) for family in ("shifts_circular", "shifts_enlarged") if family in found}
    columns = {family: table.columns(names) for family, names in lines.items()}
    return {family: [flip_rate(x, k) for k in range(1, x.shape[1])] for family, x in columns.items()}


def _summary(table: Predictions, found: Families) -> dict[str, float]:
    summary = {"accuracy": table.accuracy("clean")}

    def mean(score: Callable[[str], float], names: list[str]) -> float:
        return fmean(score(name) for name in names)

    if "corruptions" in found:
        names = _names(found["corruptions"])
        summary["corruption_accuracy"] = mean(table.accuracy, names)
        for group, members in GROUPS.items():
            if part := [name for name in names if name.partition("/")[0] in members]:
                summary[f"corruption_accuracy_{group}"] = mean(table.accuracy, part)
    if "held_out" in found:
        summary["corruption_accuracy_held_out"] = mean(table.accuracy, _names(found["held_out"]))
    summary["jpeg_accuracy"] = mean(table.accuracy, _names(found["jpeg"]))
    summary["jpeg_changed"] = mean(table.changed, _names(found["jpeg"]))
    if "shifts_reflect" in found:
        summary["shift_consistency"] = all_pairs_consistency(table.columns(_names(found["shifts_reflect"])))
        circular = table.columns(_names(found["shifts_circular"]))
        summary["shift_flip_probability_circular"] = flip_probability(circular)
    for family in ("rotation_bilinear_black", "rotation_bilinear_black_masked", "rotation_nearest_black"):
        if family in found:
            short = family.replace("_black", "")
            turned = [variant.name for variant in found[family] if variant.severity]
            summary[f"{short}_accuracy"] = mean(table.accuracy, turned)
            summary[f"{short}_flip_probability"] = flip_probability(table.columns(_names(found[family])))
    if "quarter_turns" in found:
        summary["quarter_turn_consistency"] = all_pairs_consistency(table.columns(_names(found["quarter_turns"])))
    if "flips" in found:
        summary["flip_changed"] = table.changed("flip/horizontal")
    return summary


def _names(variants: list[Perturbation]) -> list[str]:
    return [variant.name for variant in variants]
