"""Robustness of a lab's trials: measured once, with each trial's own normalization, compared by the same statistics."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convswap.data import Data, load_data
from convswap.errors import StoreError, UsageError
from convswap.lab import Store, StoredTrial, Trial, run_grid, summarize
from convswap.lab.publish import publish
from convswap.lab.robustness.files import RobustnessFiles, measure_robustness
from convswap.lab.store import STORE_FILE
from convswap.measure.robustness import Robustness, compare_paired, robustness
from convswap.measure.statistics import compare_to_baseline, holm, mean_interval
from convswap.models import load
from convswap.train import digits_recipe

MODEL = f"{__name__}:small"


def small(num_classes: int, in_channels: int) -> nn.Module:
    """A network that learns digits in a second."""
    conv = nn.Conv2d(in_channels, 4, 3, padding=1, stride=2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, num_classes))


def trial(data: Data, unit: str, seed: int, **changes: Any) -> Trial:
    recipe = digits_recipe(epochs=1).as_dict()
    where = None if unit == "conv" else "all"
    common = {"data": "digits", "data_fingerprint": data.fingerprint, "recipe": recipe, "model": MODEL}
    return Trial(unit=unit, where=where, seed=seed, **{**common, **changes})


@pytest.fixture(scope="module")
def data() -> Data:
    torch.set_num_threads(1)
    return load_data("digits")


@pytest.fixture(scope="module")
def lab(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two units, three seeds each, measured."""
    folder = tmp_path_factory.mktemp("lab")
    rows = run_grid([trial(data, unit, seed) for unit in ("conv", "circle") for seed in range(3)], folder)
    measure_robustness(folder, rows, data, "quick")
    return folder


def rows_of(lab: Path) -> list[StoredTrial]:
    with Store(lab / STORE_FILE, write=False) as store:
        return store.rows()


def test_every_trial_gets_the_profile_of_its_network_once(lab: Path, data: Data) -> None:
    files, rows = RobustnessFiles(lab), rows_of(lab)
    written = {}
    for stored in rows:
        path = files.path(stored.id, "quick")
        written[path] = path.stat().st_mtime_ns
        found = Robustness.load(path)
        assert stored.result is not None
        # quick takes up to 1,000 images, and digits have fewer: clean accuracy is the trial's own
        assert (found.images, found.summary["accuracy"]) == (len(data.test), stored.result["test_accuracy"])
    again = robustness(load(path.with_name("model.safetensors"), constructor=MODEL), data, "quick")
    assert found.as_dict() == json.loads(json.dumps(again.as_dict()))
    measure_robustness(lab, rows, data, "quick")
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_networks_see_images_normalised_as_in_their_training(data: Data, tmp_path: Path) -> None:
    own = trial(data, "conv", 0, normalization={"mean": [0.9], "std": [0.05]})
    (stored,) = run_grid([own], tmp_path, progress=False)
    assert stored.result is not None
    measure_robustness(tmp_path, [stored], data, "quick", progress=False)
    found = RobustnessFiles(tmp_path).read(own.id, "quick")
    assert found.summary["accuracy"] == stored.result["test_accuracy"]
    network = load(tmp_path / "trials" / own.id / "model.safetensors", constructor=MODEL)
    assert robustness(network, data, "quick").summary["accuracy"] != found.summary["accuracy"]


def test_units_are_compared_over_seeds_as_accuracy_is(lab: Path, data: Data) -> None:
    files, rows = RobustnessFiles(lab), rows_of(lab)
    conv, circle = (row["robustness"] for row in summarize(rows, None, files))
    assert (circle["profile"], circle["images"], circle["seed"], circle["n"]) == ("quick", len(data.test), 0, 3)
    assert {"corruptions", "flips"} <= circle["left_out"].keys()
    assert set(circle["scores"]) == {
        *("accuracy", "rotation_bilinear_accuracy", "shift_consistency", "jpeg_changed", "ece")
    }
    values = [[files.read(s.id, "quick").summary["jpeg_changed"] for s in part] for part in (rows[:3], rows[3:])]
    spread, against = mean_interval(values[1]), compare_to_baseline(values[1], values[0])
    assert circle["scores"]["jpeg_changed"] == {
        **{"mean": spread.mean, "low": spread.low, "high": spread.high},
        **{"difference": against.difference, "diff_low": against.low, "diff_high": against.high},
        **{"p_value": against.p_value, "p_holm": holm([against.p_value])[0]},
    }
    assert conv["scores"]["jpeg_changed"]["difference"] is None
    assert circle["paired"] is None
    names = [condition["name"] for condition in circle["conditions"]]
    assert names == ["clean", "JPEG qualities", "shifts", "rotations", "shears", "quarter turns"]
    turned = [files.read(s.id, "quick").summary["rotation_bilinear_accuracy"] for s in rows[3:]]
    assert circle["conditions"][3]["mean"] == pytest.approx(mean_interval(turned).mean)


def test_few_seeds_are_compared_as_two_networks_over_the_same_images(lab: Path) -> None:
    files, rows = RobustnessFiles(lab), rows_of(lab)
    conv, circle = (row["robustness"] for row in summarize([*rows[:3], rows[4]], None, files))
    assert circle["scores"]["accuracy"]["difference"] is None
    assert circle["scores"]["accuracy"]["p_value"] is None
    assert conv["paired"] is None
    assert circle["paired"]["seed"] == 1
    mine, other = (files.read(stored.id, "quick") for stored in (rows[4], rows[1]))
    assert circle["paired"]["differences"]["clean"] == mine.compare(other)["clean"].as_dict()
    angles = [f"rotation_bilinear_black/{angle}" for angle in (-30, -15, 15, 30)]
    expected = compare_paired(mine.predictions, other.predictions, angles)
    assert circle["paired"]["differences"]["rotations"] == expected.as_dict()
    # a difference in the table is that between the points of the chart, for a single seed
    by_name = [{c["name"]: c["mean"] for c in row["conditions"]} for row in (circle, _single(files, rows[1]))]
    assert expected.difference == pytest.approx(by_name[0]["rotations"] - by_name[1]["rotations"])


def _single(files: RobustnessFiles, stored: StoredTrial) -> dict[str, Any]:
    (row,) = summarize([stored], None, files)
    found: dict[str, Any] = row["robustness"]
    return found


def test_what_was_not_measured_has_no_numbers(lab: Path) -> None:
    rows = rows_of(lab)
    assert all(row["robustness"] is None for row in summarize(rows))
    other = replace(rows[5], id="0" * 16)
    _, circle = summarize([*rows[:5], other], None, RobustnessFiles(lab))
    assert (circle["n_seeds"], circle["robustness"]["n"]) == (3, 2)


def test_a_lab_with_both_profiles_shows_the_one_measured_of_more_trials(lab: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    shutil.copytree(lab, both)
    files, rows = RobustnessFiles(both), rows_of(both)
    for count, shown in ((1, "quick"), (len(rows), "full")):
        for stored in rows[:count]:
            saved = json.loads(files.path(stored.id, "quick").read_text())
            files.path(stored.id, "full").write_text(json.dumps(saved | {"profile": "full"}))
        assert [row["robustness"]["profile"] for row in summarize(rows, None, files)] == [shown, shown]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 1}'])
def test_a_damaged_file_is_named(data: Data, tmp_path: Path, text: str) -> None:
    (stored,) = run_grid([trial(data, "conv", 0)], tmp_path, progress=False)
    RobustnessFiles(tmp_path).path(stored.id, "quick").write_text(text)
    with pytest.raises(StoreError, match=r"robustness-quick\.json is damaged .*delete it"):
        publish(tmp_path)


def test_damaged_predictions_are_named(lab: Path, tmp_path: Path) -> None:
    files, id = RobustnessFiles(tmp_path), rows_of(lab)[0].id
    saved = json.loads(RobustnessFiles(lab).path(id, "quick").read_text())
    saved["predictions"]["variants"]["clean"].pop()
    files.path(id, "quick").parent.mkdir(parents=True)
    files.path(id, "quick").write_text(json.dumps(saved))
    with pytest.raises(StoreError, match="delete it"):
        files.read(id, "quick")
    files.path(id, "full").write_text(RobustnessFiles(lab).path(id, "quick").read_text())
    with pytest.raises(StoreError, match="it holds the profile 'quick'"):
        files.read(id, "full")


def test_an_unknown_profile_is_refused(data: Data, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="robustness='none' is not allowed; choose one of 'quick', 'full'"):
        measure_robustness(tmp_path, [], data, "none")


def test_ctrl_c_says_how_to_go_on(data: Data, lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(lab, broken, ignore=shutil.ignore_patterns("robustness-*"))
    calls: list[int] = []

    def interrupted(*arguments: Any, **options: Any) -> Robustness:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return robustness(*arguments, **options)

    monkeypatch.setattr("convswap.measure.robustness.robustness", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        measure_robustness(broken, rows_of(broken), data, "quick", progress=False)
    assert f"convswap report {broken}" in caught.value.__notes__[0]
    files = RobustnessFiles(broken)
    assert [files.profiles(stored.id) for stored in rows_of(broken)] == [["quick"], *[[]] * 5]


RUN = "import sys, torch, test_lab_robustness; torch.set_num_threads(1); test_lab_robustness.measure_all(sys.argv[1])"


def measure_all(lab: str) -> None:
    """What a killed process does, and what its successor does again."""
    measure_robustness(lab, rows_of(Path(lab)), load_data("digits"), "quick", device="cpu")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_measurement_goes_on_where_it_was(
    lab: Path, data: Data, tmp_path: Path, child_environment: Callable[..., dict[str, str]]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(lab, broken, ignore=shutil.ignore_patterns("robustness-*"))
    files, ids = RobustnessFiles(broken), [stored.id for stored in rows_of(broken)]
    environment = child_environment(Path(__file__).parent, OMP_NUM_THREADS="1")
    process = subprocess.Popen([sys.executable, "-c", RUN, str(broken)], env=environment, stderr=subprocess.DEVNULL)
    try:
        while sum(bool(files.profiles(id)) for id in ids) < 2 and process.poll() is None:
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, "the measurement ended before it could be killed"
    done = {path: path.stat().st_mtime_ns for id in ids if (path := files.path(id, "quick")).exists()}
    assert 2 <= len(done) < len(ids)
    measure_all(str(broken))
    assert {path: path.stat().st_mtime_ns for path in done} == done
    for id in ids:
        assert files.read(id, "quick").as_dict() == RobustnessFiles(lab).read(id, "quick").as_dict()
