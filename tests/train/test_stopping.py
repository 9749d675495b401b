from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convswap.train import evaluate, fit
from convswap.train.stopping import EarlyStopping, best_epoch

from .conftest import make_data, make_model, make_recipe

RECIPE = make_recipe(epochs=12, learning_rate=0.5, patience=2)


def data():
    found = make_data()
    other = make_data(count=30).train
    return replace(found, validation=other)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([1.0, 2.0])), max_size=12))
def test_the_best_epoch_is_the_first_of_the_highest(scores: list[tuple[float, float]]) -> None:
    history = [{"validation_accuracy": accuracy, "validation_loss": loss} for accuracy, loss in scores]
    best = 0
    for epoch, (accuracy, loss) in enumerate(scores, 1):
        if best == 0 or (accuracy, -loss) > (scores[best - 1][0], -scores[best - 1][1]):
            best = epoch
    assert best_epoch(history) == best


def test_it_stops_after_the_patience_and_tests_the_best_weights() -> None:
    images, seen = data(), []
    model = make_model()

    def note(row) -> None:
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})

    result = fit(model, images, RECIPE, seed=0, progress=False, device="cpu", on_epoch=note)
    done, best = len(result.history), best_epoch(result.history)
    assert best == done - 2
    assert done < 12
    assert all("test_accuracy" not in row for row in result.history[:-1])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, seen[best - 1][name]), name
    assert evaluate(model, images, device="cpu").loss == pytest.approx(result.test_loss)
    (warning,) = result.warnings
    assert f"ended after epoch {done} of 12 and kept epoch {best}" in warning
    assert "training time" in warning


def test_a_training_that_never_stops_early_is_the_plain_one() -> None:
    plain, patient = make_model(), make_model()
    recipe = make_recipe(learning_rate=0.05)
    first = fit(plain, data(), recipe, seed=0, progress=False, device="cpu")
    second = fit(patient, data(), replace(recipe, patience=9), seed=0, progress=False, device="cpu")
    assert [row["train_loss"] for row in first.history] == [row["train_loss"] for row in second.history]
    assert first.warnings == ()


def test_the_epochs_end_it_at_the_latest() -> None:
    rows = [{"validation_accuracy": value, "validation_loss": 1.0} for value in (0.1, 0.9, 0.2)]
    stopping = EarlyStopping(3, 3)
    assert [stopping.over(rows[:n]) for n in range(4)] == [False, False, False, True]
    (warning,) = stopping.warning(rows)
    assert "had its 3 epochs and kept epoch 2" in warning
    assert EarlyStopping(3, 3).warning([*rows[:2], {"validation_accuracy": 1.0, "validation_loss": 1.0}]) == ()
    assert EarlyStopping(0, 3).warning(rows) == ()
