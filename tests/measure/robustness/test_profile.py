"""The table of predictions, paired comparison, and the whole profile on models whose answers are known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convswap.data import ArrayImages, Data, load_data
from convswap.errors import DataError, StoreError, UsageError
from convswap.measure.robustness import (
    ALEXNET_ERRORS,
    COMMON,
    Draws,
    Predictions,
    Robustness,
    Sample,
    cifar_c,
    cifar_c_names,
    clean,
    compare_paired,
    corruption,
    flip,
    jpeg,
    load_cifar_c,
    mcnemar,
    mean_corruption_error,
    predict,
    quarter_turn,
    relative_corruption_error,
    robustness,
    sample_of,
    shift,
)
from convswap.measure.robustness.table import joined


class Brighter(nn.Module):
    """Which half is brighter: 0 the left one, 1 the right one. Counts the images it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        self.seen += len(x)
        half = x.shape[3] // 2
        return torch.stack([x[..., :half].mean((1, 2, 3)), x[..., -half:].mean((1, 2, 3))], 1)


def halves(side: int = 32, count: int = 6, channels: int = 3) -> Sample:
    """Images with one dark and one bright half, alternately: labels 0, 1, 0, 1, ..."""
    images = torch.full((count, channels, side, side), 60, dtype=torch.uint8)
    images[0::2, ..., : side // 2] = 180
    images[1::2, ..., side // 2 :] = 180
    return Sample(images, torch.arange(count) % 2, (0.5,) * channels, (0.25,) * channels)


def table(labels: list[int], **columns: list[int]) -> Predictions:
    return Predictions(torch.tensor(labels), torch.tensor([*columns.values()]).T, tuple(columns), {})


def test_scores_of_a_table_by_hand() -> None:
    found = table([0, 1, 2, 3], clean=[0, 1, 2, 0], moved=[0, 2, 2, 3])
    assert found.accuracy("clean") == 0.75
    assert found.error("moved") == 0.25
    assert found.changed("moved") == 0.5
    assert found.changed("clean", "clean") == 0
    assert found.columns(["moved", "clean"])[3].tolist() == [3, 0]
    again = Predictions.from_dict(json.loads(json.dumps(found.as_dict())))
    assert torch.equal(again.classes, found.classes)
    assert again.variants == found.variants
    both = joined([found, table([0, 1, 2, 3], other=[1, 1, 1, 1])])
    assert both.variants == ("clean", "moved", "other")
    with pytest.raises(UsageError, match="did you mean 'moved'"):
        found.column("move")
    with pytest.raises(UsageError, match="different images"):
        joined([found, table([0, 1, 2, 0], other=[1, 1, 1, 1])])
    with pytest.raises(UsageError, match="twice"):
        Predictions(torch.zeros(1).long(), torch.zeros(1, 2).long(), ("a", "a"), {})


def test_predict_by_hand() -> None:
    model = Brighter().train()
    found = predict(model, halves(), [clean(), flip("horizontal"), flip("vertical"), quarter_turn(2)], batch_size=4)
    assert model.training
    assert found.accuracy("clean") == 1
    assert found.accuracy("flip/horizontal") == 0
    assert found.changed("flip/horizontal") == 1
    assert found.changed("flip/vertical") == 0
    assert found.accuracy("quarter_turn/2") == 0
    logits = predict(model, halves(), [clean()], logits_of=["clean"]).logits["clean"]
    assert logits[0].tolist() == pytest.approx([(180 / 255 - 0.5) / 0.25, (60 / 255 - 0.5) / 0.25])


def test_batches_do_not_change_the_images() -> None:
    seen: list[Tensor] = []

    class Keep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x.flatten(1)[:, :2]

    variant = [corruption("snow", 3)]
    predict(Keep(), halves(), variant, batch_size=6, seed=5)
    predict(Keep(), halves(), variant, batch_size=4, seed=5)
    assert torch.equal(seen[0], torch.cat(seen[1:]))
    assert len(seen) == 3


def test_draws() -> None:
    first, other = Draws(0, "a", range(3)), Draws(0, "b", range(3))
    assert not torch.equal(first.normal(2), other.normal(2))
    assert Draws(0, "a", []).normal(2).shape == (0, 2)
    assert Draws(0, "a", range(9)).shared(0, 1000, 4).unique().numel() == 3
    uniform = Draws(1, "a", range(4000)).uniform(-2, 2)
    assert float(uniform.var()) == pytest.approx(16 / 12, rel=0.05)
    assert abs(float(torch.corrcoef(torch.stack([uniform[1:], uniform[:-1]]))[0, 1])) < 0.05
    whole = Draws(1, "a", range(4000)).integers(3, 6)
    assert whole.unique().tolist() == [3, 4, 5]


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_profile(profile: str) -> None:
    model = Brighter()
    found = robustness(model, halves(), profile, device="cpu")
    assert model.seen == 6 * len(found.predictions.variants)
    assert found.summary["accuracy"] == 1
    assert found.summary["flip_changed"] == 1
    assert found.summary["jpeg_changed"] == 0
    assert found.curves["quarter_turns"]["quarter_turn/2"] == {"accuracy": 0, "changed": 1}
    assert found.summary["rotation_bilinear_accuracy"] == (1 if profile == "quick" else pytest.approx(0.5, abs=0.05))
    assert len(found.curves["corruptions"]) == (15 if profile == "quick" else 75)
    assert set(found.summary) >= {"corruption_accuracy_noise", "shift_consistency", "ece", "brier", "nll"}
    assert found.summary["shift_consistency"] == 1
    assert len(found.flip_rates["shifts_circular"]) == (4 if profile == "quick" else 16)
    reach = 2 if profile == "quick" else 7  # rolled by less than a quarter, the brighter half stays the brighter half
    assert found.predictions.changed(f"shift_circular/0,{reach}") == 0
    assert len(found.divergences) == (0 if profile == "quick" else 16)
    again = Robustness.from_dict(json.loads(json.dumps(found.as_dict(), allow_nan=False)))
    assert again.summary == found.summary
    assert torch.equal(again.predictions.classes, found.predictions.classes)
    assert "predictions" not in found.as_dict(with_predictions=False)


def test_differences_are_paired(tmp_path: Path) -> None:
    class Wrong(Brighter):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).flip(1)

    first, second = robustness(Brighter(), halves(), device="cpu"), robustness(Wrong(), halves(), device="cpu")
    found = first.compare(second)
    assert found["clean"].difference == 1
    assert (found["clean"].only_first, found["clean"].only_second) == (6, 0)
    assert found["clean"].p_value == pytest.approx(2 / 64)
    assert found["corruptions"].p_value is None
    assert first.compare(first)["clean"].p_value == 1
    path = tmp_path / "robustness.json"
    first.save(path)
    assert Robustness.load(path).compare(second)["clean"] == found["clean"]
    with pytest.raises(UsageError, match="different perturbations"):
        first.compare(robustness(Brighter(), halves(), seed=1, device="cpu"))
    path.write_text("{}")
    with pytest.raises(StoreError, match="format 1"):
        Robustness.load(path)
    path.write_text("{")
    with pytest.raises(StoreError, match="not a robustness result"):
        Robustness.load(path)


@pytest.mark.parametrize("split", [(0, 0), (1, 5), (7, 7), (30, 12), (900, 700)])
def test_mcnemar(split: tuple[int, int]) -> None:
    total, fewer = sum(split), min(split)
    exact = min(1.0, 2 * sum(math.comb(total, k) for k in range(fewer + 1)) / 2**total)
    assert mcnemar(*split) == pytest.approx(exact, abs=1e-9)


def test_paired_bootstrap() -> None:
    labels = [0] * 400
    first, second = table(labels, v=[0] * 300 + [1] * 100), table(labels, v=[0] * 260 + [1] * 140)
    found = compare_paired(first, second, ["v"])
    assert found.difference == pytest.approx(0.1)
    half = 1.96 * math.sqrt(0.1 * 0.9 / 400)
    assert (found.low, found.high) == pytest.approx((0.1 - half, 0.1 + half), abs=0.006)
    assert found == compare_paired(first, second, ["v"])
    with pytest.raises(UsageError, match="same images"):
        compare_paired(first, table([1] * 400, v=[0] * 400), ["v"])
    with pytest.raises(UsageError, match="confidence=1"):
        compare_paired(first, second, ["v"], confidence=1)


def test_mean_corruption_error() -> None:
    errors = {name: [value] * 5 for name, value in ALEXNET_ERRORS.items()}
    assert mean_corruption_error(errors) == pytest.approx(1)
    assert tuple(errors) == COMMON
    assert mean_corruption_error({"fog": [0.1] * 5}, {"fog": 1}) == pytest.approx(0.1)
    assert relative_corruption_error({"fog": [0.4]}, 0.1, {"fog": 0.7}, 0.1) == pytest.approx(0.5)
    with pytest.raises(UsageError, match=r"\['rain'\]"):
        mean_corruption_error({"rain": [0.1]})
    with pytest.raises(UsageError, match="no corruption"):
        mean_corruption_error({})


def data_of(sample: Sample, flip: bool) -> Data:
    images = ArrayImages(sample.images, sample.labels)
    size = (sample.images.shape[2], sample.images.shape[3])
    return Data("made", images, images, 2, 3, size, sample.mean, sample.std, ("left", "right"), "", flip)


def test_what_does_not_suit_is_left_out() -> None:
    tiny = robustness(Brighter(), halves(8), device="cpu")
    assert tiny.left_out == {"corruptions": "the images are smaller than 16x16"}
    assert "corruption_accuracy" not in tiny.summary
    wide = halves()
    wide = replace(wide, images=torch.cat([wide.images, wide.images], 2))
    found = robustness(Brighter(), data_of(wide, False), device="cpu", images=4)
    assert found.images == 4
    assert set(found.left_out) == {"rotation_masked", "quarter_turns", "flips"}


def test_real_digits() -> None:
    data = load_data("digits")

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :10]

    found = robustness(Mean(), data, images=50)
    assert found.images == 50
    assert "flips" in found.left_out


def test_wrong_arguments() -> None:
    with pytest.raises(UsageError, match="profile='slow'"):
        robustness(Brighter(), halves(), "slow")
    with pytest.raises(UsageError, match="images=0"):
        robustness(Brighter(), halves(), images=0)
    with pytest.raises(UsageError, match="at least one perturbation"):
        predict(Brighter(), halves(), [])
    with pytest.raises(UsageError, match="logits_of"):
        predict(Brighter(), halves(), [clean()], logits_of=["jpeg/10"])
    with pytest.raises(UsageError, match="model returned"):
        predict(nn.Flatten(2), halves(), [clean()])
    with pytest.raises(UsageError, match="twice"):
        predict(Brighter(), halves(), [jpeg(10), jpeg(10)])
    with pytest.raises(UsageError, match="indices has 2"):
        shift(0, 1)(halves().images, indices=[0, 1])
    empty = ArrayImages(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), torch.zeros(0).long())
    with pytest.raises(DataError, match="no test images"):
        sample_of(replace(data_of(halves(), True), test=empty))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder as the published one, of 4 images a severity: image i of severity s is all 10 s + i."""
    rows = np.array([10 * s + i for s in range(1, 6) for i in range(4)], dtype=np.uint8)
    np.save(tmp_path / "fog.npy", np.broadcast_to(rows[:, None, None, None], (20, 32, 32, 3)))
    np.save(tmp_path / "labels.npy", np.arange(20) % 4)
    return tmp_path


def test_published_files(published: Path) -> None:
    assert cifar_c_names(published) == ("fog",)
    images, labels = load_cifar_c(published, "fog", 3)
    assert images.shape == (4, 3, 32, 32)
    assert images[:, 0, 0, 0].tolist() == [30, 31, 32, 33]
    assert labels.tolist() == [0, 1, 2, 3]
    variant = cifar_c(published, "fog", 5)
    assert variant.name == "fog/5"
    assert variant(halves().images[:2], indices=[1, 3])[:, 0, 0, 0].tolist() == [51, 53]
    with pytest.raises(DataError, match="up to number 5"):
        predict(Brighter(), halves(), [variant])


def test_broken_published_files(published: Path) -> None:
    with pytest.raises(DataError, match=r"snow\.npy is missing"):
        load_cifar_c(published, "snow", 1)
    with pytest.raises(UsageError, match="severity=0"):
        load_cifar_c(published, "fog", 0)
    np.save(published / "labels.npy", np.arange(3))
    with pytest.raises(DataError, match="expected 20 whole numbers"):
        load_cifar_c(published, "fog", 1)
    np.save(published / "fog.npy", np.zeros((20, 32, 32), np.uint8))
    with pytest.raises(DataError, match="expected uint8"):
        load_cifar_c(published, "fog", 1)
    (published / "fog.npy").write_bytes(b"not an array")
    with pytest.raises(DataError, match="cannot be read"):
        load_cifar_c(published, "fog", 1)
