"""A teacher's logits as a second target: formula, guards, schedule, and what never happens to the teacher."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_training import make_data, make_model, make_recipe
from torch import nn
from torch.nn import functional as F

from convswap.errors import UsageError
from convswap.models import ModelCard
from convswap.regularizers import Objective, Outcome, Setting, parse_regularizer
from convswap.regularizers.label.logit_distillation import Distilled, logit_distance
from convswap.surgery.history import CARD
from convswap.train import fit
from convswap.train.batches import TrainBatches
from convswap.train.losses import cross_entropy
from convswap.train.objective import Plain
from convswap.train.teacher import Teacher

A, T = (torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def test_the_centred_square_by_hand() -> None:
    expected = []
    for a, t in zip(A.tolist(), T.tolist(), strict=True):
        mean_a, mean_t = sum(a) / 4, sum(t) / 4
        expected.append(sum(((x - mean_a) - (y - mean_t)) ** 2 for x, y in zip(a, t, strict=True)) / 4)
    torch.testing.assert_close(logit_distance(A, T, "mse"), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_divergence_is_torchs(temperature: float) -> None:
    expected = temperature**2 * F.kl_div(
        F.log_softmax(A / temperature, 1), F.softmax(T / temperature, 1), reduction="batchmean"
    )
    torch.testing.assert_close(logit_distance(A, T, "kl", temperature).mean(), expected)


@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_equal_answers_are_no_distance_and_a_constant_is_none(kind: str) -> None:
    assert logit_distance(T, T, kind).abs().max() < 1e-12
    shift = torch.arange(6.0, dtype=torch.float64)[:, None]
    torch.testing.assert_close(logit_distance(A + shift, T - 2 * shift, kind), logit_distance(A, T, kind))


def test_a_hot_divergence_is_half_of_the_square() -> None:
    torch.testing.assert_close(logit_distance(A, T, "kl", 1e4), logit_distance(A, T, "mse") / 2, rtol=1e-3, atol=1e-5)


def test_half_precision_is_computed_in_float32() -> None:
    found = logit_distance((100 * A).bfloat16(), (100 * T).bfloat16())
    assert found.dtype == torch.float32


def objective(text: str, teacher=lambda images: T, **more: object) -> Distilled:
    method = parse_regularizer(f"logit_distillation:{text}")
    setting = Setting(num_classes=4, channels=1, image_size=(1, 1), batch_size=6, epochs=4, teacher=teacher, **more)
    made = method.objective(Plain(cross_entropy), nn.Identity(), setting)
    assert isinstance(made, Distilled)
    made.begin_epoch(1)
    made.progress(0.0)
    return made


def step(of: Objective) -> Outcome:
    return of.step(lambda images: A, torch.zeros(6, 1, 1, 1), LABELS)


def test_the_weights_of_the_start() -> None:
    plain = F.cross_entropy(A, LABELS)
    torch.testing.assert_close(step(objective("mse")).loss, plain + 0.1 * logit_distance(A, T, "mse").mean())
    torch.testing.assert_close(step(objective("kl")).loss, plain + logit_distance(A, T, "kl").mean())
    assert torch.equal(step(objective("mse:strength=0")).loss, plain)


@pytest.mark.parametrize(
    ("schedule", "expected"), [("linear", 0.75), ("cosine", (1 + math.cos(math.pi / 4)) / 2), ("constant", 1.0)]
)
def test_the_weight_falls_and_ends(schedule: str, expected: float) -> None:
    made = objective(f"mse:strength=1:end=0.4:schedule={schedule}")
    made.progress(0.1)
    assert made.weight == pytest.approx(expected)
    made.progress(0.4)
    assert torch.equal(step(made).loss, F.cross_entropy(A, LABELS))


def test_the_teacher_is_not_asked_when_nobody_listens() -> None:
    def never(images: torch.Tensor) -> torch.Tensor:
        raise AssertionError

    made = objective("mse:end=0.5", teacher=never)
    made.progress(0.5)
    step(made)


def test_only_images_that_the_teacher_knows() -> None:
    right = T.argmax(1) == LABELS
    assert 0 < int(right.sum()) < 6
    expected = F.cross_entropy(A, LABELS) + 0.1 * logit_distance(A, T)[right].sum() / 6
    torch.testing.assert_close(step(objective("mse:only_correct=true")).loss, expected)


def test_only_images_on_which_the_teacher_is_better() -> None:
    better = F.cross_entropy(T, LABELS, reduction="none") < F.cross_entropy(A, LABELS, reduction="none")
    assert 0 < int(better.sum()) < 6
    expected = F.cross_entropy(A, LABELS) + 0.1 * logit_distance(A, T)[better].sum() / 6
    torch.testing.assert_close(step(objective("mse:only_better=true")).loss, expected)


@pytest.mark.parametrize(("scale", "silent"), [(0.0, True), (-1.0, False)])
def test_the_teacher_falls_silent_once_it_is_reached(scale: float, silent: bool) -> None:
    """As good as the teacher counts as reached; the network here answers like it, or the contrary."""
    answer = F.one_hot(LABELS, 4).double() + scale * F.one_hot(LABELS, 4) * 2
    made = objective("mse:stop_when_better=true", teacher=lambda images: F.one_hot(LABELS, 4).double())
    made.step(lambda images: answer, torch.zeros(6, 1, 1, 1), LABELS)
    made.begin_epoch(2)
    assert made.silent is silent
    resumed = objective("mse:stop_when_better=true")
    resumed.counts.load_state_dict(made.counts.state_dict())
    resumed.begin_epoch(3)
    assert resumed.silent is silent, "for good, and the checkpoint knows"


# --- in a training -----------------------------------------------------------------------------------------------


def teacher_model() -> nn.Module:
    model = make_model(seed=5)
    fit(model, make_data(), make_recipe(epochs=2), seed=1, progress=False, device="cpu")
    return model


def trained(text: str, teacher: nn.Module | None, *, folder: Path | None = None, **changes: object) -> nn.Module:
    model = make_model()
    recipe = make_recipe(epochs=2, regularize=(text,) if text else (), **changes)
    fit(model, make_data(), recipe, seed=0, directory=folder, progress=False, device="cpu", teacher=teacher)
    return model


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten().double() for value in model.state_dict().values()])


def test_without_strength_the_training_is_the_plain_one_bit_for_bit() -> None:
    teacher = teacher_model()
    assert torch.equal(weights(trained("logit_distillation:strength=0", teacher)), weights(trained("", None)))
    assert not torch.equal(weights(trained("logit_distillation", teacher)), weights(trained("", None)))


def test_nothing_happens_to_the_teacher(tmp_path: Path) -> None:
    teacher = teacher_model().train()
    before = weights(teacher)
    model = trained("logit_distillation", teacher, folder=tmp_path)
    assert torch.equal(weights(teacher), before), "neither its weights nor its statistics move"
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    assert list(model.state_dict()) == list(make_model().state_dict())
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert sum(value.numel() for value in checkpoint["companions"].values()) == 4


def test_answers_to_images_that_never_change_are_kept_and_equal() -> None:
    """No crop, no flip: the teacher is asked for each image once, and the training is the same."""

    class Counting(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.images = inner, 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.images += len(x)
            return self.inner(x)

    kept, asked = Counting(teacher_model()), Counting(teacher_model())
    quiet = {"precision": "fp32", "crop_padding": 0}
    first = trained("logit_distillation:end=1:schedule=constant", kept, **quiet)
    assert kept.images == 2 + 50, "two for the check, then every image"
    second = trained("logit_distillation:end=1:schedule=constant", asked, crop_padding=1)
    assert asked.images == 2 + 2 * 48, "crops change the images: each step asks"
    assert not torch.equal(weights(first), weights(second))
    direct = make_model()
    recipe = make_recipe(epochs=2, regularize=("logit_distillation:end=1:schedule=constant",), **quiet)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainBatches, "still", lambda self: None)
        fit(direct, make_data(), recipe, seed=0, progress=False, device="cpu", teacher=teacher_model())
    torch.testing.assert_close(weights(direct), weights(first), rtol=1e-5, atol=1e-6)


def test_a_step_in_parts_is_the_step() -> None:
    """Without BatchNorm and dropout in the way."""

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

    found = []
    for parts in (1, 2):
        model = network()
        recipe = make_recipe(epochs=1, regularize=("logit_distillation",), accumulate=parts)
        fit(model, make_data(), recipe, seed=0, progress=False, device="cpu", teacher=teacher_model())
        found.append(weights(model))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_other_constants_and_another_order_of_classes_are_converted() -> None:
    data = make_data()
    model = make_model(seed=5).eval()
    setattr(model, CARD, ModelCard(mean=(0.1,), std=(0.7,), class_names=("c", "a", "b")))
    teacher = Teacher.of(model, data, make_recipe(), torch.device("cpu"))
    pixels = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        found = teacher((pixels - 0.3) / 0.25)
        expected = model((pixels - 0.1) / 0.7)[:, [1, 2, 0]]
    torch.testing.assert_close(found, expected)


def carded(**facts: object) -> nn.Module:
    model = make_model()
    setattr(model, CARD, ModelCard(**facts))  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (lambda: make_model(classes=5), "the teacher has 5 outputs, but 'stripes' has 3 classes"),
        (lambda: make_model(channels=3), "cannot answer images of 8x8 with 1 channels"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(100, 3)), "cannot answer images of 8x8"),
        (
            lambda: carded(class_names=("x", "y", "z")),
            "the teacher knows the classes x, y, z, but 'stripes' has a, b, c",
        ),
        (lambda: carded(channels=3), "the teacher takes images of 3 channels"),
    ],
)
def test_a_teacher_of_something_else_is_refused(teacher, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trained("logit_distillation", teacher())


def test_teacher_and_method_need_each_other() -> None:
    with pytest.raises(UsageError, match="needs a teacher; name one with --teacher"):
        trained("logit_distillation", None)
    with pytest.raises(UsageError, match="the recipe does not listen to it"):
        trained("", teacher_model())


@pytest.mark.parametrize(
    "text", ["l1", "mse:end=0", "mse:schedule=steps", "kl:temperature=0", "mse:strength=-0.5", "mse:strenght=1"]
)
def test_options(text: str) -> None:
    with pytest.raises(UsageError):
        parse_regularizer(f"logit_distillation:{text}")


def test_it_cannot_be_combined_with_another_whole_step() -> None:
    with pytest.raises(UsageError, match="cannot be combined"):
        make_recipe(regularize=("logit_distillation", "self_distillation"), label_smoothing=0.0)
    assert replace(make_recipe(), regularize=("mixup", "logit_distillation")).regularize == (
        "mixup", "logit_distillation",
    )  # fmt: skip
