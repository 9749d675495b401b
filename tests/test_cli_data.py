"""What the verbs say of a folder of images, and that every verb reads the same data."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convswap.cli import main

NETWORK = """
from torch import nn

def build(num_classes, in_channels=3):
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, num_classes),
    )
"""
TINY = ["--image-size", "16", "--epochs", "2"]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a network of its own, and photographs of two classes in three parts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"net_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(NETWORK)
    monkeypatch.setenv("NETWORK", f"{name}:build")
    draw = np.random.default_rng(0)
    for part in ("train", "valid", "test"):
        for label, kind in enumerate(("ant", "bee")):
            (tmp_path / "photos" / part / kind).mkdir(parents=True)
            for index in range(4):
                pixels = draw.integers(0, 100, (20, 24, 3), dtype=np.uint8) + 100 * label
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"photos/{part}/{kind}/{index}.bmp")
    return tmp_path / "photos"


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[str, str]:
    """What a command that succeeds prints on stdout and stderr."""
    code = main(list(argv))
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out, captured.err


def train(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[str, str]:
    network = os.environ["NETWORK"]
    return run(capsys, "train", "--model", network, "--data", "imagefolder:photos", "--out", "run", *TINY, *more)


def compare(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[str, str]:
    fast = ["--units", "conv", "--seeds", "1", "--no-latency", "--no-pictures", "--lab", "lab"]
    return run(capsys, "compare", os.environ["NETWORK"], "--data", "imagefolder:photos", *fast, *TINY, *more)


LINE = (
    "data: 2 classes (ant 4, bee 4), 8 training, 8 validation and 8 test images of 24x20, RGB; valid is watched during "
    "training, test is run once at the end"
)


def test_train_says_what_the_data_are_and_watches_validation(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said = train(capsys)
    assert said.splitlines()[0] == LINE
    result = json.loads(Path("run/result.json").read_text())
    assert result["data"]["line"] == LINE.removeprefix("data: ")
    assert result["data"]["names"] == {"train": "train", "validation": "valid", "test": "test"}
    assert ["test_accuracy" in row for row in result["history"]] == [False, True]
    assert all("validation_accuracy" in row for row in result["history"])
    assert result["test_accuracy"] == result["history"][-1]["test_accuracy"]


def test_quiet_says_nothing(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(capsys, "--quiet")[1] == ""


def test_a_comparison_says_it_in_the_report_and_trains_again_what_changed(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, said = compare(capsys)
    assert said.splitlines()[0] == LINE
    page = Path("lab/report.html").read_text(encoding="utf-8")
    assert LINE.removeprefix("data: ") in page
    assert "on the validation images" in page
    assert "are already finished" in compare(capsys)[1]
    for index in range(4):  # same names, same sizes
        one, other = (photos / "train" / kind / f"{index}.bmp" for kind in ("ant", "bee"))
        one.rename("x")
        other.rename(one)
        Path("x").rename(other)
    said = compare(capsys)[1]
    assert f"the data imagefolder:{photos} have changed since" in said
    assert "1 trial on the old ones is kept, and trained anew" in said
    assert "already finished" not in said
    assert len(list(Path("lab/trials").iterdir())) == 2
    assert "have changed" not in compare(capsys)[1]


def test_the_options_travel_with_a_run(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(capsys, "--channels", "gray", "--background", "black", "--eval-split", "val")
    described = json.loads(Path("run/trial.json").read_text())
    wanted = {"channels": "gray", "background": "#000000", "eval_split": "val"}
    assert described["data_options"] == wanted
    accuracy = json.loads(Path("run/result.json").read_text())["test_accuracy"]
    printed, _ = run(capsys, "fuse", "run", "--model", os.environ["NETWORK"], "--no-latency")
    assert f"test accuracy {accuracy:.2%} -> {accuracy:.2%}; 0 of 8 predictions changed" in printed
    run(capsys, "train", "--from", "run", "--model", os.environ["NETWORK"], "--epochs", "1", "--out", "child")
    assert json.loads(Path("child/trial.json").read_text())["data_options"] == wanted
    on_copy = ["fuse", "run", "--model", os.environ["NETWORK"], "--no-latency", "--data", "imagefolder:photos"]
    assert "of 8 predictions changed" in run(capsys, *on_copy)[0]


def test_plan_and_see_say_what_the_data_are(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", "imagefolder:photos", "--channels", "gray"]
    printed, said = run(capsys, "plan", "cifar_resnet8", "circle", *data, "--image-size", "16", "--json")
    assert said.startswith("data: 2 classes (ant 4, bee 4), 8 training")
    assert json.loads(printed)["replacements"]
    _, said = run(capsys, "see", "cifar_resnet8", *data, "--images", "4")
    assert "data: 2 classes (ant 4, bee 4), 8 training" in said
    assert "2 classes (ant 4, bee 4), 8 training" in Path("see.html").read_text(encoding="utf-8")


def test_a_file_that_goes_away_while_training_is_one_line(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from convswap.cli import verb_train

    tell = verb_train.tell_data
    monkeypatch.setattr(verb_train, "tell_data", lambda *a: tell(*a) or (photos / "train/ant/0.bmp").unlink())
    network = os.environ["NETWORK"]
    argv = ["train", "--model", network, "--data", "imagefolder:photos", "--out", "run", *TINY, "--quiet"]
    assert main(argv) == 1
    said = capsys.readouterr().err
    assert said.startswith("convswap: error: photos/train/ant/0.bmp cannot be read any more (the file is gone)")
    assert said.count("\n") == 1
