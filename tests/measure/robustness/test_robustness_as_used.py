"""Robustness as somebody uses it: odd shapes and precisions, splits into batches, and arguments that make no sense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convswap.errors import DataError, UsageError
from convswap.measure.robustness import (
    Sample,
    all_pairs_consistency,
    all_shifts,
    calibration,
    clean,
    corrupt,
    crop_pairs,
    enlarged_shifts,
    flip_rate,
    jpeg,
    mean_corruption_error,
    predict,
    quarter_turn,
    random_rotation,
    robustness,
    rotation,
    shear,
    shift,
    shift_divergence,
    shift_line,
)

IMAGES = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)


class Brightness(nn.Module):
    """Ten classes by the mean of what the model is given: 0 the darkest. Its one parameter decides the precision."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == self.factor.dtype
        level = (x.mean((1, 2, 3)) + 2) / 4 * 10  # of pixels normalised by 0.5 and 0.25: -2 .. 2
        return -(level[:, None] - torch.arange(10, dtype=x.dtype) - 0.5).abs() * self.factor


def sample(height: int = 32, width: int = 32, channels: int = 3, count: int = 10) -> Sample:
    """Image i is grey all over, of the brightness of class i."""
    grey = torch.tensor([round((i + 0.5) * 25.5) for i in range(count)], dtype=torch.uint8)
    images = grey[:, None, None, None].expand(-1, channels, height, width).contiguous()
    return Sample(images, torch.arange(count), (0.5,) * channels, (0.25,) * channels)


def measured(model: nn.Module, data: Any, *arguments: Any, **options: Any) -> Any:
    return robustness(model, data, *arguments, device="cpu", progress=False, **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_model_gets_images_of_its_own_precision(dtype: torch.dtype) -> None:
    found = predict(Brightness().to(dtype), sample(), [clean(), quarter_turn(1)], logits_of=["clean"])
    assert found.accuracy("clean") == found.accuracy("quarter_turn/1") == 1
    assert found.logits["clean"].dtype == torch.float32


@pytest.mark.parametrize(
    ("size", "channels", "missing"),
    [
        ((1, 1), 3, {"corruptions", "shifts"}),
        ((3, 5), 1, {"corruptions", "shifts", "rotation_masked", "quarter_turns"}),
        ((9, 7), 3, {"corruptions", "shifts_enlarged", "rotation_masked", "quarter_turns"}),
        ((16, 16), 1, {"saturate"}),
    ],
)
def test_sizes_and_channels(size: tuple[int, int], channels: int, missing: set[str]) -> None:
    found = measured(Brightness(), sample(*size, channels, 2), "full")
    assert set(found.left_out) == missing
    # Neither mirrored nor turned images change their mean, and JPEG keeps even grey ones within a class.
    assert found.summary["accuracy"] == found.summary["jpeg_accuracy"] == 1
    assert found.summary["flip_changed"] == 0


def test_batches_change_no_prediction_of_any_family() -> None:
    def answers(batch_size: int, images: int = 10) -> Tensor:
        noisy = replace(sample(), images=corrupt(sample().images, "gaussian_noise", 5))
        variants = [*(v for pair in crop_pairs(24, 2) for v in pair), random_rotation(90), *enlarged_shifts(32, 2)]
        first = Sample(noisy.images[:images], noisy.labels[:images], noisy.mean, noisy.std)
        return predict(
            Brightness().double(), first, variants, batch_size=batch_size, logits_of=[variants[0].name]
        ).classes

    whole = answers(1000)
    for batch_size in (1, 3):
        assert torch.equal(answers(batch_size), whole)
    assert torch.equal(answers(4, 7), whole[:7])  # a part of the images is that part of the whole


def test_more_images_than_there_are_is_all_of_them() -> None:
    assert measured(Brightness(), sample(8, 8), images=1000, batch_size=1000).images == 10
    assert measured(Brightness(), sample(8, 8), images=3).images == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_answers_that_name_no_class_are_refused(value: float) -> None:
    class Broken(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            found = super().forward(x).clone()
            found[:, 3] = torch.where(x.flatten(1).mean(1) > 1, value, found[:, 3])  # the brighter ones
            return found

    with pytest.raises(UsageError, match="NaN or infinity for image 8 of variant 'clean'"):
        predict(Broken(), sample(), [clean()], batch_size=3)


def test_labels_and_classes_must_fit() -> None:
    beyond = replace(sample(), labels=torch.arange(1, 11))
    with pytest.raises(UsageError, match="scores of 10 classes, but there is a label 10"):
        measured(Brightness(), beyond)
    with pytest.raises(UsageError, match="labels=-1 is not allowed"):
        replace(sample(), labels=torch.arange(-1, 9))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": torch.rand(10, 3, 8, 8)}, "torch.float32"),
        ({"images": torch.zeros(10, 2, 8, 8).byte()}, "1 or 3 channels"),
        ({"images": [1, 2]}, "images=list"),
        ({"labels": torch.zeros(9).long()}, r"give torch.int64 labels \(10,\)"),
        ({"labels": torch.zeros(10)}, "labels of torch.float32"),
        ({"mean": (0.5,)}, r"mean=\(0.5,\)"),
        ({"std": (0.0, 0.0, 0.0)}, "std above 0"),
    ],
)
def test_a_sample_is_checked_when_it_is_made(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        replace(sample(), **change)


@pytest.mark.parametrize("option", ["images", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3"])
def test_counts_must_be_whole_and_above_zero(option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{option}={value!r} is not allowed; give a whole number of at least 1"):
        measured(Brightness(), sample(8, 8), **{option: value})


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: measured(Brightness(), sample(8, 8), "quik"), "profile='quik'.*'quick', 'full'"),
        (lambda: measured(Brightness(), sample(8, 8), parameters="cifr"), "parameters='cifr'.*'cifar'"),
        (lambda: measured(Brightness(), sample(8, 8), seed=0.5), "seed=0.5"),
        (lambda: measured(Brightness(), "cifar10"), "dataset=str"),
        (lambda: measured(lambda x: x, sample(8, 8)), "model=function"),
        (lambda: corrupt(IMAGES.numpy(), "fog", 1), "images=ndarray"),  # type: ignore[arg-type]
        (lambda: corrupt(IMAGES, "fog", 1.0), "severity=1.0"),  # type: ignore[arg-type]
        (lambda: jpeg(50.5), "quality=50.5"),  # type: ignore[arg-type]
        (lambda: jpeg(101), "quality=101"),
        (lambda: rotation(float("nan")), "degrees=nan"),
        (lambda: shear(90), "degrees=90"),
        (lambda: quarter_turn(1.0), "turns=1.0"),  # type: ignore[arg-type]
        (lambda: shift(0.5, 0), "down=0.5"),  # type: ignore[arg-type]
        (lambda: all_shifts(1.5), "reach=1.5"),  # type: ignore[arg-type]
        (lambda: shift_line(0), "reach=0"),
        (lambda: crop_pairs(8, 0), "epochs=0"),
        (lambda: enlarged_shifts(8.5), "size=8.5"),  # type: ignore[arg-type]
        (lambda: flip_rate(torch.zeros(2, 3).long(), 1.5), "apart=1.5"),  # type: ignore[arg-type]
        (lambda: all_pairs_consistency(torch.zeros(2, 3)), "torch.float32"),
        (lambda: shift_divergence(torch.zeros(2, 3), torch.zeros(1, 3)), "logits of shapes"),
        (lambda: mean_corruption_error({"fog": []}), r"errors of \['fog'\] are empty"),
        (lambda: mean_corruption_error({"fog": [0.5]}, {"fog": 0.0}), "baseline is not above 0"),
        (lambda: calibration(torch.full((1, 2), torch.nan), torch.tensor([0])), "finite"),
        (lambda: calibration(torch.zeros(1, 2), torch.tensor([0]), bins=2.5), "bins=2.5"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        call()


def test_no_images() -> None:
    empty = Sample(IMAGES[:0], torch.zeros(0).long(), (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(DataError, match="no images"):
        measured(Brightness(), empty)


def test_indices_may_be_a_tensor() -> None:
    by_tensor = corrupt(IMAGES, "gaussian_noise", 3, indices=torch.tensor([7, 4]))  # type: ignore[arg-type]
    assert torch.equal(by_tensor, corrupt(IMAGES, "gaussian_noise", 3, indices=[7, 4]))
