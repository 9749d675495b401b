"""From the words of a command line to trials, and from failures to one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from convswap.cli.failure import Failure, as_failure
from convswap.cli.grid import chosen_recipe, make_trials, suitable_process
from convswap.cli.output import fail_if_any_failed
from convswap.cli.saved import Saved
from convswap.data import Data, load_data
from convswap.errors import DataError, StoreError, UsageError
from convswap.lab import StoredTrial, Trial
from convswap.train import binary_recipe, default_recipe


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits")


def trials(data: Data, **changes: Any) -> list[Trial]:
    given: dict[str, Any] = {
        "where": {"conv": None, "circle": "3x3"},
        "data": data,
        "image_size": None,
        "recipe": default_recipe(data),
        "weights": None,
        "pretrained": False,
        "normalization": "data",
    }
    options = {"conv": {}, "circle": {"radius": 1.2}}
    return make_trials(["cifar_resnet8", "cifar_resnet20"], ["conv", "circle"], options, range(3, 5), **given | changes)


def test_seeds_vary_slowest_and_units_fastest(data: Data) -> None:
    found = [(trial.seed, trial.model, trial.unit) for trial in trials(data)]
    assert found == [
        (seed, model, unit)
        for seed in (3, 4)
        for model in ("cifar_resnet8", "cifar_resnet20")
        for unit in ("conv", "circle")
    ]


def test_what_is_given_reaches_the_trials_of_its_unit(data: Data) -> None:
    conv, circle = trials(data)[:2]
    assert (conv.unit_options, conv.where) == ({}, None)
    assert (circle.unit_options, circle.where) == ({"radius": 1.2}, "3x3")
    assert (circle.data, circle.data_fingerprint) == ("digits", data.fingerprint)
    assert circle.recipe == default_recipe(data).as_dict()


def test_trained_weights_start_warm(data: Data, tmp_path: Path) -> None:
    assert {trial.start for trial in trials(data)} == {"fresh"}
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"weights")
    warm = trials(data, weights=weights)
    assert {trial.start for trial in warm if trial.unit == "circle"} == {"warm"}
    assert all(trial.weights is not None for trial in warm)
    pretrained = trials(data, pretrained=True)
    assert {(trial.start, trial.pretrained) for trial in pretrained if trial.unit == "circle"} == {("warm", True)}


def test_the_command_line_overrides_the_recipe(data: Data) -> None:
    def chosen(name: str = "auto", **given: Any) -> Any:
        nothing = {"epochs": None, "batch_size": None, "learning_rate": None}
        return chosen_recipe(data, name=name, trained=False, **nothing | given)

    assert chosen() == default_recipe(data)
    assert chosen("binary") == binary_recipe()
    for field, value in (("epochs", 3), ("batch_size", 32), ("learning_rate", 0.025)):
        assert chosen(**{field: value}) == replace(default_recipe(data), **{field: value})
        assert chosen("binary", **{field: value}) == replace(binary_recipe(), **{field: value})
    with pytest.raises(UsageError, match="epochs=0"):
        chosen(epochs=0)


def test_tiny_images_get_one_thread_for_the_time_of_the_training(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with suitable_process(data):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with suitable_process(replace(data, image_size=(16, 16))):
            assert torch.get_num_threads() == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        with suitable_process(data):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["model", "mine"])
def test_the_fused_model_lies_beside_the_original(name: str, tmp_path: Path) -> None:
    saved = Saved(tmp_path / f"{name}.safetensors", None)
    assert saved.output.parent == tmp_path
    assert saved.output != saved.weights
    assert saved.output.name == ("fused.safetensors" if name == "model" else "mine-fused.safetensors")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("a value"), 2),
        (StoreError("a file"), 1),
        (DataError("a folder"), 1),
        (KeyboardInterrupt(), 130),
        (OSError(28, "No space left on device", "x"), 1),
    ],
)
def test_exit_codes(error: BaseException, code: int) -> None:
    failure = as_failure(error)
    assert failure is not None
    assert failure.code == code
    assert "\n" not in str(failure)


def test_programming_errors_are_no_failures() -> None:
    assert as_failure(ValueError("a bug")) is None
    assert as_failure(ModuleNotFoundError("no module", name="nothing_of_ours")) is None


def stored(state: Any, traceback: str | None) -> StoredTrial:
    trial = Trial(model="m", data="digits", data_fingerprint="f", recipe={}, seed=0)
    result = {"test_accuracy": 0.5} if state == "finished" else None
    return StoredTrial(trial.id, trial, state, result, traceback, 0.0, 1.0)


def test_a_comparison_in_which_a_trial_fails_fails_unless_allowed() -> None:
    good, bad = stored("finished", None), stored("failed", "Traceback\nValueError: boom")
    for allowed in (False, True):
        fail_if_any_failed([], Path("lab"), allowed=allowed)
        fail_if_any_failed([good, stored("interrupted", None)], Path("lab"), allowed=allowed)
        with pytest.raises(Failure, match="all 2 trials failed, the first with: ValueError: boom"):
            fail_if_any_failed([bad, bad], Path("lab"), allowed=allowed)
    fail_if_any_failed([good, bad], Path("lab"), allowed=True)
    with pytest.raises(Failure, match="1 of 2 trials failed, the first with: ValueError: boom") as caught:
        fail_if_any_failed([good, bad], Path("lab"), allowed=False)
    assert caught.value.code == 1
    assert f"convswap trials lab --forget {bad.id}" in str(caught.value)
