from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from convswap.errors import TrainingError, UsageError
from convswap.train import evaluate, fit
from convswap.train.batches import Augmentation, TrainBatches

from .conftest import make_data, make_model, make_recipe

METRICS = {
    "epoch",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "learning_rate",
    "seconds",
    "images_per_second",
}


def test_it_learns_and_keeps_a_line_per_epoch(data, model, tmp_path) -> None:
    result = fit(model, data, make_recipe(epochs=6), seed=0, directory=tmp_path, progress=False, device="cpu")
    assert result.test_accuracy > 0.9
    assert result.test_accuracy == result.history[-1]["test_accuracy"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.history
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert set(lines[0]) == METRICS
    assert result.images_per_second > 0
    assert (result.precision, result.device, result.processes, result.resumed_after) == ("fp32", "cpu", 1, 0)
    found = evaluate(model, data, device="cpu")
    assert found.accuracy == result.test_accuracy
    assert found.loss == pytest.approx(result.test_loss)


def test_a_seed_gives_the_same_training_and_leaves_the_callers_generator(data) -> None:
    first, second, other = make_model(), make_model(), make_model()
    for model, seed in ((first, 4), (second, 4), (other, 5)):
        torch.manual_seed(77)
        before = torch.get_rng_state()
        fit(model, data, make_recipe(epochs=1), seed=seed, progress=False, device="cpu")
        assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first[0].weight, other[0].weight)


class Draws(nn.Module):
    """Draws a number in every step of training, as dropout would, and notes it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drawn = make_model(), []

    def forward(self, x):
        if self.training:
            self.drawn.append(float(torch.rand(())))
        return self.inner(x)


def test_the_seed_reaches_what_the_model_draws(data) -> None:
    drawn = {}
    for name, seed in (("first", 4), ("again", 4), ("other", 5)):
        model = Draws()
        fit(model, data, make_recipe(epochs=1), seed=seed, progress=False, device="cpu")
        drawn[name] = model.drawn
    assert drawn["first"] == drawn["again"]
    assert not set(drawn["first"]) & set(drawn["other"])


def test_the_seed_reaches_order_and_augmentation(data, monkeypatch) -> None:
    seen = []

    class Batches(TrainBatches):
        def __init__(self, *given, **named) -> None:
            seen.append(named["seed"])
            super().__init__(*given, **named)

    monkeypatch.setattr("convswap.train.loop.TrainBatches", Batches)
    fit(make_model(), data, make_recipe(epochs=1), seed=6, progress=False, device="cpu")
    assert seen == [6]


def test_a_model_handed_over_in_eval_mode_is_trained_all_the_same(data) -> None:
    first, second = make_model(), make_model().eval()
    one, other = (fit(m, data, make_recipe(), seed=0, progress=False, device="cpu") for m in (first, second))
    assert one.history[-1]["train_loss"] == other.history[-1]["train_loss"]
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert int(second[1].num_batches_tracked) == 9


def test_each_epoch_sees_other_batches(data, monkeypatch) -> None:
    epochs = []

    class Batches(TrainBatches):
        def epoch(self, epoch: int):
            epochs.append(epoch)
            return super().epoch(epoch)

    monkeypatch.setattr("convswap.train.loop.TrainBatches", Batches)
    fit(make_model(), data, make_recipe(epochs=3), seed=0, progress=False, device="cpu")
    assert epochs == [1, 2, 3]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_precisions_and_memory_formats(data, model, precision, channels_last) -> None:
    recipe = make_recipe(precision=precision, channels_last=channels_last, crop_padding=1)
    result = fit(model, data, recipe, seed=0, progress=False, device="cpu")
    assert result.precision == precision
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert model[3].weight.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


def test_a_compiled_training_keeps_plain_names(data, model, tmp_path, monkeypatch) -> None:
    # The default backend needs a C++ compiler and most of a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    before = list(model.state_dict())
    fit(model, data, make_recipe(epochs=1, compile=True), seed=0, directory=tmp_path, progress=False, device="cpu")
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert list(saved["model"]) == list(model.state_dict()) == before


class Breaks(nn.Module):
    """Returns `value` in step `step` of training."""

    def __init__(self, step: int, value: float) -> None:
        super().__init__()
        self.inner, self.left, self.value = make_model(), step, value

    def forward(self, x):
        out = self.inner(x)
        if self.training:
            self.left -= 1
        return out * self.value if self.left == 0 and self.training else out


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("look", [1, 50])
def test_a_loss_that_is_not_finite_names_epoch_step_and_rate(data, monkeypatch, value, look) -> None:
    recipe = make_recipe(warmup=0.0)
    if look > 1:  # as on a GPU, where the loss is looked at late
        monkeypatch.setattr("convswap.train.loop._look_every", lambda device, processes: look)
    rate = recipe.learning_rate_at(4, 9)
    with pytest.raises(TrainingError, match=rf"epoch 2 of 3, step 2 of 3, at learning rate {rate:.4g}"):
        fit(Breaks(5, value), data, recipe, seed=0, progress=False, device="cpu")


def test_a_model_that_breaks_in_its_last_step_is_not_saved(data, tmp_path) -> None:
    model = make_model()
    recipe = make_recipe(epochs=1, batch_size=50, learning_rate=1e38, warmup=0.0, weight_decay=1.0)
    with pytest.raises(TrainingError, match=r"test loss is .* after epoch 1"):
        fit(model, data, recipe, seed=0, directory=tmp_path, progress=False, device="cpu")
    assert not (tmp_path / "checkpoint.pt").exists()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_head_of_the_wrong_size_is_refused(data) -> None:
    with pytest.raises(UsageError, match="num_classes=3"):
        fit(make_model(classes=5), data, make_recipe(), seed=0, progress=False, device="cpu")


def test_auxiliary_outputs_are_refused(data) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = make_model()

        def forward(self, x):
            return self.inner(x), self.inner(x)

    with pytest.raises(TrainingError, match="returned tuple"):
        fit(Two(), data, make_recipe(), seed=0, progress=False, device="cpu")


def test_a_frozen_model_is_refused(data, model) -> None:
    with pytest.raises(UsageError, match="no parameter to train"):
        fit(model.requires_grad_(False), data, make_recipe(), seed=0, progress=False, device="cpu")


def test_frozen_parameters_stay(data, model) -> None:
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    fit(model, data, make_recipe(epochs=1, weight_decay=0.1), seed=0, progress=False, device="cpu")
    assert torch.equal(before, model[0].weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "gpu"}, "device='gpu'"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"device": "cpu", "devices": 0}, "devices=0"),
        ({"device": "cpu", "devices": 1.5}, "devices=1.5"),
    ],
)
def test_a_device_that_is_not_there_is_named(data, model, arguments, message) -> None:
    with pytest.raises(UsageError, match=message):
        fit(model, data, make_recipe(), seed=0, progress=False, **arguments)


@pytest.mark.parametrize(("allowed", "wanted"), [(True, True), (True, False), (False, True)])
def test_flips_need_the_consent_of_the_data(monkeypatch, allowed, wanted) -> None:
    seen = []
    monkeypatch.setattr("convswap.train.loop.Augmentation", lambda *given: seen.append(given) or Augmentation(*given))
    recipe = make_recipe(epochs=1, flip=wanted, crop_padding=2, padding_mode="zeros")
    fit(make_model(), replace(make_data(), flip=allowed), recipe, seed=0, progress=False, device="cpu")
    assert seen == [(2, "zeros", allowed and wanted, "random")]


def test_plain_lines_where_there_is_no_terminal(data, model, capfd) -> None:
    fit(model, data, make_recipe(precision="bf16"), seed=0, label="stripes", device="cpu")
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.split("  ")[:2] for line in err.splitlines()] == [["stripes", f"epoch {n}/3"] for n in (1, 2, 3)]


def test_a_bar_on_a_terminal(data, model, monkeypatch, capfd) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    fit(model, data, make_recipe(), seed=0, label="stripes", device="cpu")
    assert "stripes" in capfd.readouterr().err


def test_each_epoch_is_reported_to_the_caller(data, model) -> None:
    rows = []
    result = fit(model, data, make_recipe(), seed=0, progress=False, device="cpu", on_epoch=rows.append)
    assert rows == result.history
