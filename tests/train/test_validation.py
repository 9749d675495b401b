"""A validation part is watched after every epoch; the test part is run once, at the end, and changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from convswap.data import ArrayImages, Data
from convswap.errors import TrainingError
from convswap.train import evaluate, fit

from .conftest import make_data, make_model, make_recipe


def with_validation(data: Data) -> Data:
    """The first nine test images are for validation, the others stay."""
    parts = [ArrayImages(data.test.images[rows], data.test.labels[rows]) for rows in (slice(0, 9), slice(9, None))]
    return replace(data, validation=parts[0], test=parts[1])


def test_validation_is_watched_and_test_run_once() -> None:
    data, model = with_validation(make_data()), make_model()
    result = fit(model, data, make_recipe(), seed=0, progress=False)
    watched = [set(row) & {"validation_loss", "validation_accuracy"} for row in result.history]
    tested = [set(row) & {"test_loss", "test_accuracy"} for row in result.history]
    assert [len(keys) for keys in watched] == [2, 2, 2]
    assert [len(keys) for keys in tested] == [0, 0, 2]
    assert result.test_accuracy == evaluate(model, data).accuracy
    assert result.test_loss == pytest.approx(evaluate(model, data).loss)
    last = evaluate(model, data, data.validation)
    assert result.history[-1]["validation_accuracy"] == last.accuracy
    assert result.history[-1]["validation_loss"] == pytest.approx(last.loss)


def test_watching_another_part_trains_the_same_network() -> None:
    models = make_model(), make_model()
    for model, data in zip(models, (make_data(), with_validation(make_data())), strict=True):
        fit(model, data, make_recipe(), seed=0, progress=False)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_resumed_training_ends_with_the_same_rows(tmp_path) -> None:
    data = with_validation(make_data())

    def stop(row: dict[str, object]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    whole = fit(make_model(), data, make_recipe(), seed=0, progress=False)
    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), data, make_recipe(), seed=0, progress=False, directory=tmp_path, on_epoch=stop)
    resumed = fit(make_model(), data, make_recipe(), seed=0, progress=False, directory=tmp_path)
    assert resumed.resumed_after == 2
    for key in ("validation_loss", "validation_accuracy", "test_loss", "test_accuracy"):
        assert resumed.history[-1][key] == whole.history[-1][key]


def test_the_line_of_an_epoch_names_the_part(capsys: pytest.CaptureFixture[str]) -> None:
    fit(make_model(), with_validation(make_data()), make_recipe(epochs=1), seed=0)
    assert "validation accuracy" in capsys.readouterr().err
    fit(make_model(), make_data(), make_recipe(epochs=1), seed=0)
    assert "  test accuracy" in capsys.readouterr().err


class NoNumbers(nn.Sequential):
    """Trains, and returns no numbers in evaluation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if self.training else super().forward(x) * float("nan")


def test_a_validation_loss_that_is_not_finite_is_named() -> None:
    with pytest.raises(TrainingError, match="the validation loss is nan after epoch 1"):
        fit(NoNumbers(*make_model()), with_validation(make_data()), make_recipe(), seed=0, progress=False)
