"""A trained ResNet-20 on the first 160 images of the CIFAR-10 test set, against the reference's predictions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from replayed_draws import Replay
from torch import nn

import convswap
from convswap.data import load_data
from convswap.measure.robustness import (
    Draws,
    Perturbation,
    Predictions,
    Sample,
    all_pairs_consistency,
    all_shifts,
    clean,
    flip_rate,
    jpeg_sweep,
    predict,
    rotation,
    sample_of,
    shear,
)
from convswap.measure.robustness.corruptions import _corrupt


@pytest.fixture(scope="module")
def model(shared: Path) -> nn.Module:
    weights = shared / "data" / "weights" / "resnet20-12fca82f.th"
    return convswap.create_model("cifar_resnet20", num_classes=10, weights=str(weights)).eval()


@pytest.fixture(scope="module")
def sample(data_root: Path) -> Sample:
    part = sample_of(load_data("cifar10", root=str(data_root), download=False), 160)
    return Sample(part.images, part.labels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture
def reference(golden: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return golden("robustness")["case_shift_rotate_resnet20"]


def table(model: nn.Module, sample: Sample, variants: list[Perturbation]) -> Predictions:
    return predict(model, sample, variants, batch_size=160)


def test_shifts(model: nn.Module, sample: Sample, reference: dict[str, Any]) -> None:
    assert torch.equal(sample.labels, reference["labels"])
    found = table(model, sample, all_shifts(4))
    wanted, scores = reference["preds_81"].long(), reference["output"]
    assert torch.equal(found.classes.view(160, 9, 9), wanted)
    consistency = all_pairs_consistency(found.classes)
    assert consistency == pytest.approx(scores["consistency_all_pairs_with_replacement"], abs=1e-6)
    assert found.accuracy("shift_reflect/0,0") == pytest.approx(scores["acc_center"])
    assert float((found.classes == found.labels[:, None]).double().mean()) == pytest.approx(scores["acc_mean_81"])
    line = found.columns([f"shift_reflect/0,{step}" for step in range(-4, 5)])
    for apart, rate in scores["flip_rate_horizontal_by_step"].items():
        assert flip_rate(line, int(apart)) == pytest.approx(rate)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_rotations(interpolation: str, model: nn.Module, sample: Sample, reference: dict[str, Any]) -> None:
    angles = range(0, 360, 15)
    found = table(model, sample, [rotation(angle, interpolation) for angle in angles])
    wanted = torch.stack([reference["rotate_pred"][f"{interpolation}/{angle}"] for angle in angles], 1)
    assert torch.equal(found.classes, wanted.long())
    accuracy = found.accuracy(f"rotation_{interpolation}_black/15")
    assert accuracy == pytest.approx(0.6625 if interpolation == "nearest" else 0.8125)


def test_shears(model: nn.Module, sample: Sample, reference: dict[str, Any]) -> None:
    angles = range(-40, 50, 10)
    found = table(model, sample, [shear(angle) for angle in angles])
    wanted = torch.stack([_at(reference["shear_pred"], angle) for angle in angles], 1)
    assert torch.equal(found.classes, wanted.long())


def _at(predictions: dict[Any, torch.Tensor], angle: int) -> torch.Tensor:
    return predictions[angle] if angle in predictions else predictions[str(angle)]


def test_jpeg(model: nn.Module, sample: Sample) -> None:
    """The errors measured with the real codec; telling it BGR lowers the error on this network."""
    variants = [clean(), *jpeg_sweep([90, 20]), *jpeg_sweep([90, 20], "minnets_bgr")]
    found = table(model, sample, variants)
    errors = [round(100 * found.error(variant.name), 1) for variant in variants]
    assert errors == [7.5, 12.5, 51.2, 9.4, 41.9]
    assert found.changed("jpeg/90") == pytest.approx(18 / 160)


def test_glass_blur(model: nn.Module, sample: Sample) -> None:
    """Accuracies measured on the published generator's images, whose random numbers are drawn again here."""
    variants = [Perturbation(f"glass_blur/{severity}", partial(_glass, severity)) for severity in range(1, 6)]
    found = table(model, sample, variants)
    assert [round(found.accuracy(variant.name), 2) for variant in variants] == [0.52, 0.57, 0.59, 0.37, 0.38]


def _glass(severity: int, images: torch.Tensor, _: Draws) -> torch.Tensor:
    draws: Any = Replay(np.random.RandomState(0), own_generator=False)
    return torch.cat([_corrupt("glass_blur", severity, "cifar", image, draws) for image in images.split(1)])
