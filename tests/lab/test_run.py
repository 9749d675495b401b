"""One trial, trained for real on the embedded digits: a function of its description."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from convswap.data import Data, load_data
from convswap.errors import DataError, StoreError, SurgeryError, UsageError
from convswap.lab import run
from convswap.lab.build import build_model
from convswap.lab.run import run_trial
from convswap.lab.trial import Trial, describe_weights
from convswap.train import digits_recipe
from convswap.units import PlainConv2d, spec_of

MODEL = f"{__name__}:Tiny"


class Tiny(nn.Module):
    """Two convolutions, so that a training takes a fraction of a second."""

    def __init__(self, num_classes: int, in_channels: int, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3)))


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(data: Data, **changes: Any) -> Trial:
    values = {"model": MODEL, "data": "digits", "data_fingerprint": data.fingerprint}
    return Trial(**{**values, "recipe": digits_recipe(epochs=1).as_dict(), "unit": "circle", "seed": 0, **changes})


def without_timings(result: dict[str, Any]) -> dict[str, Any]:
    timings = ("seconds", "images_per_second")
    history = [{key: value for key, value in row.items() if key not in timings} for row in result["history"]]
    return {key: value for key, value in result.items() if key not in timings} | {"history": history}


def go(trial: Trial, folder: Path, data: Data | None = None) -> dict[str, Any]:
    return run_trial(trial, folder, data=data, progress=False, device="cpu")


def test_a_trial_leaves_its_files_and_its_result(tmp_path: Path, data: Data) -> None:
    trial = make(data)
    result = go(trial, tmp_path)
    written = {"trial.json", "metrics.jsonl", "model.safetensors", "predictions.npz", "result.json"}
    assert {p.name for p in tmp_path.iterdir()} == written
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert Trial.from_json((tmp_path / "trial.json").read_text()) == trial
    assert result["trial_id"] == trial.id
    assert result["test_accuracy"] == result["history"][-1]["test_accuracy"]
    assert result["parameters"] == 10 * 4 + 37 * 4 + 50
    assert result["macs"] >= 64 * (9 * 4 + 36 * 4) + 40
    assert [r["path"] for r in result["plan"]["replacements"]] == ["second"]
    assert result["machine"]["threads"] == 1
    assert result["versions"]["torch"] == torch.__version__


def test_the_same_description_gives_the_same_bytes(tmp_path: Path, data: Data) -> None:
    torch.manual_seed(5)
    first = go(make(data), tmp_path / "a", data)
    torch.manual_seed(6)
    second = go(make(data), tmp_path / "b")
    assert without_timings(first) == without_timings(second)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert {k: v.numpy().tobytes() for k, v in one.items()} == {k: v.numpy().tobytes() for k, v in two.items()}
    other = go(make(data, seed=1), tmp_path / "c", data)
    assert other["test_loss"] != first["test_loss"]


def test_the_callers_generator_is_left_alone(tmp_path: Path, data: Data) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    go(make(data), tmp_path, data)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_finished_trial_is_returned_as_it_is(tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    result = go(make(data), tmp_path, data)
    (tmp_path / "checkpoint.pt").write_bytes(b"left by a process that died late")
    monkeypatch.setattr(run, "_train", None)
    assert go(make(data), tmp_path) == result
    assert not (tmp_path / "checkpoint.pt").exists()


def test_conv_is_the_network_itself(data: Data) -> None:
    model, plan = build_model(make(data, unit="conv"), data)
    assert plan is None
    assert type(model) is Tiny
    assert not any(isinstance(module, PlainConv2d) for module in model.modules())


def test_all_units_of_a_seed_start_from_the_same_network(data: Data) -> None:
    plain, _ = build_model(make(data, unit="conv"), data)
    swapped, _ = build_model(make(data), data)
    assert spec_of(swapped.second) is not None  # type: ignore[arg-type]
    for name, value in plain.state_dict().items():
        assert torch.equal(swapped.state_dict()[name], value), name
    other, _ = build_model(make(data, seed=1), data)
    assert not torch.equal(other.state_dict()["second.weight"], plain.state_dict()["second.weight"])


def test_a_warm_start_keeps_the_function_of_the_weights(tmp_path: Path, data: Data) -> None:
    go(make(data, unit="conv"), tmp_path / "conv", data)
    file = describe_weights(tmp_path / "conv" / "model.safetensors")
    plain, _ = build_model(make(data, unit="conv", weights=file, seed=3), data)
    swapped, plan = build_model(make(data, weights=file, start="warm", seed=3), data)
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(swapped.double()(images), plain.double()(images))
    assert plan is not None
    assert plan["start"] == "warm"


def test_arguments_of_the_model_and_where_are_used(data: Data) -> None:
    model, plan = build_model(make(data, model_arguments={"width": 6}, where="first"), data)
    assert plan is not None
    assert [r["path"] for r in plan["replacements"]] == ["first"]
    assert model.second.in_channels == 6


def test_a_folder_of_another_trial_is_refused(tmp_path: Path, data: Data) -> None:
    go(make(data), tmp_path, data)
    with pytest.raises(StoreError, match=f"belongs to trial {make(data).id}, not to {make(data, seed=1).id}"):
        go(make(data, seed=1), tmp_path, data)


@pytest.mark.parametrize("name", ["trial.json", "result.json"])
@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe"])
def test_damaged_files_are_named(tmp_path: Path, data: Data, name: str, content: bytes) -> None:
    go(make(data), tmp_path, data)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StoreError, match=rf"{name} is damaged .*delete"):
        go(make(data), tmp_path, data)


def test_a_deleted_result_is_made_again(tmp_path: Path, data: Data) -> None:
    first = go(make(data), tmp_path, data)
    (tmp_path / "result.json").unlink()
    assert without_timings(go(make(data), tmp_path, data)) == without_timings(first)


def test_changed_data_is_refused(tmp_path: Path, data: Data) -> None:
    trial = replace(make(data), data_fingerprint="0" * 64)
    with pytest.raises(DataError, match="data 'digits' changed since the trial was described"):
        go(trial, tmp_path)


def test_changed_weights_are_refused(tmp_path: Path, data: Data) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"before")
    trial = make(data, weights=describe_weights(file))
    file.write_bytes(b"after")
    with pytest.raises(DataError, match=r"w\.safetensors' changed since the trial was described"):
        go(trial, tmp_path / "trial", data)


def test_an_unknown_unit_fails_before_training(tmp_path: Path, data: Data) -> None:
    with pytest.raises(UsageError, match="unknown unit 'circel'; did you mean 'circle'"):
        go(make(data, unit="circel"), tmp_path, data)
    assert not (tmp_path / "metrics.jsonl").exists()


def three_channels(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, num_classes))


def test_a_model_for_other_channels_is_refused_before_the_training(tmp_path: Path, data: Data) -> None:
    with pytest.raises(SurgeryError, match=r"does not accept the example input of shape \(1, 1, 8, 8\)"):
        run_trial(make(data, model=f"{__name__}:three_channels", unit="conv", unit_options={}), tmp_path)


@torch.library.custom_op("convswap_test_run::riddle", mutates_args=())
def riddle(x: Tensor) -> Tensor:
    """An operator that nobody has a formula for."""
    return x.clone()


class Riddled(Tiny):
    """Works, but cannot be counted in full."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + riddle(x.detach()))


def test_the_cost_vector_is_kept_beside_the_bare_numbers(tmp_path: Path, data: Data) -> None:
    result = go(make(data), tmp_path)
    assert result["cost"]["macs_float"] == result["macs"] > 0
    parameters = result["cost"]["parameters"]
    assert parameters["trainable"] + parameters["frozen"] == result["parameters"]
    assert result["cost"]["input_shape"] == [1, 1, 8, 8]
    assert json.loads((tmp_path / "result.json").read_text())["cost"] == result["cost"]


def test_an_operator_without_a_formula_stops_no_training(tmp_path: Path, data: Data) -> None:
    plain = go(make(data, unit="conv", unit_options={}), tmp_path / "plain")
    result = go(make(data, model=f"{__name__}:Riddled", unit="conv", unit_options={}), tmp_path / "riddled")
    assert result["cost"] is None
    assert "convswap_test_run::riddle" in result["cost_problem"]
    assert (result["macs"], result["parameters"]) == (plain["macs"], plain["parameters"])


def test_the_seed_of_a_trial_reaches_its_training(tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    import convswap.train

    seen: list[int] = []
    true_fit = convswap.train.fit

    def fit(*given: Any, **named: Any) -> Any:
        seen.append(named["seed"])
        return true_fit(*given, **named)

    monkeypatch.setattr(convswap.train, "fit", fit)
    for seed in (0, 3):
        go(make(data, seed=seed), tmp_path / str(seed), data)
    assert seen == [0, 3]


def test_a_trial_whose_model_could_not_be_saved_goes_on_from_its_checkpoint(
    tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last epoch is not trained again, and no result claims a model that is not there."""
    import convswap.models
    import convswap.train

    whole = go(make(data), tmp_path / "whole", data)

    def full(*given: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(convswap.models, "save", full)
        with pytest.raises(OSError, match="No space"):
            go(make(data), tmp_path / "broken", data)
    assert not (tmp_path / "broken" / "result.json").exists()
    assert (tmp_path / "broken" / "checkpoint.pt").exists()
    resumed: list[int] = []
    true_fit = convswap.train.fit

    def fit(*given: Any, **named: Any) -> Any:
        found = true_fit(*given, **named)
        resumed.append(found.resumed_after)
        return found

    monkeypatch.setattr(convswap.train, "fit", fit)
    again = go(make(data), tmp_path / "broken", data)
    assert resumed == [1]
    assert without_timings(again) == without_timings(whole)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert {k: v.numpy().tobytes() for k, v in one.items()} == {k: v.numpy().tobytes() for k, v in two.items()}
    assert not (tmp_path / "broken" / "checkpoint.pt").exists()
