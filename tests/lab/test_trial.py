"""Trials: the id is the hash of the work, the JSON is strict in both directions."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convswap.errors import StoreError, UsageError
from convswap.lab.trial import Trial, canonical_json, describe_weights

RECIPE = {"epochs": 2, "learning_rate": 0.1, "precision": "fp32"}


def make(**changes: Any) -> Trial:
    values = {"model": "cifar_resnet8", "data": "digits", "data_fingerprint": "f" * 64, "recipe": RECIPE, "seed": 0}
    return Trial(**{**values, "unit": "circle", "version": "0.1.0", **changes})


def test_the_id_is_known() -> None:
    # A change here means that every lab in the world trains again: only with a new lab version.
    assert make().id == "544f0080104f7090"


def test_data_options_are_described() -> None:
    grey = make(data_options={"channels": "gray"})
    assert Trial.from_json(grey.to_json()) == grey


def test_the_id_is_the_same_in_another_process() -> None:
    code = "import sys; from convswap.lab.trial import Trial; print(Trial.from_json(sys.argv[1]).id)"
    found = subprocess.run([sys.executable, "-c", code, make().to_json()], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == make().id


@pytest.mark.parametrize(
    "change",
    [
        {"model": "resnet18"},
        {"model_arguments": {"width": 2}},
        {"unit": "ic"},
        {"unit_options": {"radius": "learnable"}},
        {"where": "3x3"},
        {"start": "warm"},
        {"data": "mnist"},
        {"data_fingerprint": "0"},
        {"image_size": 32},
        {"recipe": RECIPE | {"epochs": 3}},
        {"seed": 1},
        {"weights": {"file": "w", "sha256": "1"}},
        {"pretrained": True},
        {"network": {"structure": "1", "source": None}},
        {"parent": {"file": "m", "run": "1", "sha256": "1"}},
        {"data_options": {"channels": "gray"}},
        {"version": "0.2.0"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_that_matters_changes_the_id(change: dict[str, Any]) -> None:
    assert make(**change).id != make().id


def test_the_id_does_not_depend_on_where_files_lie() -> None:
    one = make(weights={"file": "/home/a/w.safetensors", "sha256": "1"}, data="imagefolder:/home/a/bees")
    other = make(weights={"file": "/mnt/b/x.safetensors", "sha256": "1"}, data="imagefolder:/mnt/b/bees")
    assert one.id == other.id
    assert one != other, "the descriptions still say where"


def test_a_parent_counts_by_its_content_and_its_run() -> None:
    parent = {"file": "/home/a/model.safetensors", "run": "0f3a5d6c7b8e9a01", "sha256": "1"}
    one = make(parent=parent, unit="conv")
    assert one.id == make(parent=parent | {"file": "/mnt/b/m.safetensors"}, unit="conv").id
    assert one.differences(make(parent=parent | {"sha256": "2"}, unit="conv")) == ["parent"]
    assert one.differences(make(parent=parent | {"run": None}, unit="conv", seed=1)) == ["seed", "parent"]
    assert one.label() == "on from 0f3a5d6c"
    assert make(parent=parent).label() == "circle from 0f3a5d6c"


def test_the_order_of_options_does_not_matter() -> None:
    one, other = make(unit_options={"a": 1, "b": 2}), make(unit_options={"b": 2, "a": 1})
    assert one.id == other.id
    assert one.to_json() == other.to_json()
    assert hash(one) == hash(other)


def test_one_baseline_serves_every_placement_and_start() -> None:
    assert make(unit="conv", where="3x3", start="warm") == make(unit="conv")
    with pytest.raises(UsageError, match=r"unit_options=.*'conv' has no options"):
        make(unit="conv", unit_options={"radius": 1})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), json_values, max_size=4), st.integers(0, 10**6))
def test_json_round_trip(options: dict[str, Any], seed: int) -> None:
    trial = make(unit_options=options, seed=seed)
    again = Trial.from_json(trial.to_json())
    assert again == trial
    assert again.id == trial.id
    assert again.to_json() == trial.to_json()


def test_a_trial_owns_its_values() -> None:
    options = {"sizes": (3, 5)}
    trial = make(unit_options=options)
    options["sizes"] = (7,)
    assert trial.unit_options == {"sizes": [3, 5]}
    with pytest.raises(FrozenInstanceError):
        trial.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"seed": True}, "seed=True .* int"),
        ({"seed": 1.5}, "seed=1.5 .* int"),
        ({"seed": 2**63}, "seed=9223372036854775808 .* from 0 to 9223372036854775807"),
        ({"start": "cold"}, "start='cold'.*'fresh', 'warm'"),
        ({"where": 3}, "where=3 .* str or None"),
        ({"recipe": {"learning_rate": float("nan")}}, "recipe=.*JSON"),
        ({"unit_options": {"f": len}}, "unit_options=.*JSON"),
        ({"weights": {"file": "w"}}, "weights=.*'sha256'"),
        ({"network": {"structure": "1"}}, "network=.*'source', 'structure'"),
        ({"parent": {"file": "m"}}, "parent=.*'run', 'sha256'"),
        ({"parent": {"file": "m", "run": None, "sha256": "1"}, "pretrained": True}, "parent= excludes"),
    ],
)
def test_bad_values_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(**change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        (json.dumps(json.loads(make().to_json()) | {"colour": 1}), r"unknown \['colour'\]"),
        (json.dumps({k: v for k, v in json.loads(make().to_json()).items() if k != "seed"}), r"missing \['seed'\]"),
        (json.dumps(json.loads(make().to_json()) | {"seed": "0"}), "seed='0'"),
    ],
)
def test_from_json_is_strict(text: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        Trial.from_json(text)


def test_canonical_json() -> None:
    assert canonical_json({"b": 0.1, "a": [1, None, "é"]}) == '{"a":[1,null,"é"],"b":0.1}'


def test_describe_weights(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"weights")
    found = describe_weights(file)
    assert found == {"file": str(file), "sha256": hashlib.sha256(b"weights").hexdigest()}
    assert make(weights=found).id == replace(make(), weights=found | {"file": "elsewhere"}).id
    with pytest.raises(StoreError, match=r"nothing\.pt.*check the path"):
        describe_weights(tmp_path / "nothing.pt")


def test_labels() -> None:
    assert make().label() == "circle"
    assert make(unit_options={"radius": "learnable"}, where="3x3").label() == "circle(radius='learnable') where 3x3"
