"""Runs and labs from the command line over their whole life: edited code, moved data, more epochs, failed trials."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import convswap
from convswap.cli import main
from convswap.lab import Store, Trial
from convswap.lab.store import STORE_FILE

OWN = """
import torch.nn as nn

def build(num_classes, in_channels=3):
    return nn.Sequential(
        nn.Conv2d(in_channels, {width}, 3, padding=1), nn.BatchNorm2d({width}), nn.ReLU(),
        nn.Conv2d({width}, {width}, 3, padding=1), nn.BatchNorm2d({width}), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear({width}, num_classes),
    )

class Breaks(nn.Module):
    def __init__(self, num_classes, in_channels=3):
        super().__init__()
        self.first, self.last = nn.Conv2d(in_channels, 8, 3), nn.Conv2d(8, num_classes, 3)

    def forward(self, x):
        if self.training:
            raise RuntimeError("boom")
        return self.last(self.first(x)).mean((2, 3))
"""
MODULE = "convswap_test_own"
TINY = ["--epochs", "1", "--quiet"]
DIGITS = ["train", "--model", f"{MODULE}:build", "--data", "digits", *TINY]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder with a user's module in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("CONVSWAP_DATA", raising=False)
    before = list(sys.path)
    write_module(width=4)
    yield tmp_path
    sys.path[:] = before
    sys.modules.pop(MODULE, None)


def write_module(width: int, text: str = OWN) -> None:
    """Write the user's module, as seen by a new process."""
    Path(f"{MODULE}.py").write_text(text.format(width=width))
    shutil.rmtree("__pycache__", ignore_errors=True)
    sys.modules.pop(MODULE, None)


def run(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> tuple[str, str]:
    """What a command prints on stdout and stderr."""
    found = main(argv)
    captured = capsys.readouterr()
    assert found == code, captured.err
    return captured.out, captured.err


def photos(root: Path, *, classes: tuple[str, ...] = ("ant", "bee"), count: int = 6) -> None:
    """Folders of noisy photographs in two colours."""
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                color = np.array([(200, 60, 40), (40, 60, 200)][label])
                pixels = np.clip(color + draw.normal(0, 80, (40, 44, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")


PHOTOS = ["--data", "imagefolder:photos", "--image-size", "32", *TINY]


def test_edited_code_trains_again_and_says_why(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Before: the old table at once, without a word."""

    def warned() -> str:
        """What was warned of since the last question. Outside a test such warnings go to stderr."""
        text = caplog.text
        caplog.clear()
        return text

    argv = ["compare", f"{MODULE}:build", "--units", "conv", "--seeds", "1", "--no-latency", "--no-pictures", *TINY]
    run(capsys, *argv)
    (first,) = folder.glob("convswap-lab/trials/*")
    run(capsys, *argv)
    assert "has changed" not in warned()
    write_module(width=8)
    run(capsys, *argv)
    assert f"{MODULE}:build has changed since trial {first.name}: trained again" in warned()
    sizes = {json.loads(p.read_text())["parameters"] for p in folder.glob("convswap-lab/trials/*/result.json")}
    assert len(sizes) == 2
    write_module(width=8, text=OWN + "# the same network from another source\n")
    run(capsys, *argv)
    assert "has changed since trial" in warned()
    assert len(list(folder.glob("convswap-lab/trials/*"))) == 3
    write_module(width=4)
    run(capsys, *argv)
    assert "has changed" not in warned(), "the first code again is the first trial again"
    assert len(list(folder.glob("convswap-lab/trials/*"))) == 3


def test_edited_code_gets_a_new_run_or_is_refused_in_an_old_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run(capsys, *DIGITS)
    run(capsys, *DIGITS, "--out", "mine")
    write_module(width=8)
    run(capsys, *DIGITS)
    assert "has changed since trial" in caplog.text
    assert len(list((folder / "runs").iterdir())) == 2
    assert "(another network); choose another folder" in run(capsys, *DIGITS, "--out", "mine", code=1)[1]


def test_fuse_says_that_the_code_of_a_run_has_changed(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run(capsys, *DIGITS, "--out", "mine")
    fuse = ["fuse", "mine", "--model", f"{MODULE}:build", "--no-latency"]
    write_module(width=4, text=OWN + "# edited\n")
    run(capsys, *fuse)
    assert "has changed since this run was trained; its weights still fit" in caplog.text
    write_module(width=8)
    error = run(capsys, *fuse, code=1)[1]
    assert f"{MODULE}:build has changed since the run: restore the code it was trained with" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("own", [False, True], ids=["by name", "own"])
def test_what_is_printed_as_next_works_as_printed(own: bool, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before: `convswap fuse RUN` failed for models of one's own, and for folders with a space."""
    model = ["--model", f"{MODULE}:build"] if own else ["--model", "cifar_resnet8"]
    printed, _ = run(capsys, "train", *model, "--data", "digits", "--unit", "circle", *TINY, "--out", "my run")
    followed = 0
    while found := re.search(r"^next: convswap (.*)$", printed, re.MULTILINE):
        printed, _ = run(capsys, *shlex.split(found[1]))
        followed += 1
    assert followed >= 1
    assert "0 of 359 predictions changed" in printed


def test_see_takes_a_model_of_ones_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before: see advised `--model`, which it did not have."""
    run(capsys, *DIGITS, "--out", "mine")
    error = run(capsys, "see", "mine", "--images", "4", code=2)[1]
    (advice,) = re.findall(r"give (--model \S+) to load it", error)
    run(capsys, "see", "mine", "--images", "4", *advice.split())
    assert (folder / "mine" / "see.html").is_file()


@pytest.mark.parametrize("loss", ["moved", "one deleted"])
def test_fuse_and_see_need_no_data(loss: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before: `fuse` failed, with --no-evaluate too, although trial.json had the size."""
    photos(folder / "photos")
    run(capsys, "train", "--model", "cifar_resnet8", "--unit", "circle", *PHOTOS, "--out", "run")
    if loss == "moved":
        (folder / "photos").rename(folder / "moved")
    else:
        next((folder / "photos" / "train" / "ant").iterdir()).unlink()
    for more in ([], ["--no-evaluate"]):
        printed, _ = run(capsys, "fuse", "run", "--no-latency", *more)
        assert "units, 0 blocks" in printed
        assert ("test accuracy was not measured" in printed) == (not more)
        assert more or "--data NAME measures it" in printed
    there = "moved" if loss == "moved" else "photos"
    argv = ["fuse", "run", "--no-latency", "--data", f"imagefolder:{there}", "--out", "other.safetensors"]
    printed, _ = run(capsys, *argv)
    assert "0 of 12 predictions changed" in printed
    assert (folder / "other.safetensors").is_file()
    if loss == "moved":
        assert "the run's images were not used" in run(capsys, "see", "run", "--images", "4")[0]
    error = run(capsys, "fuse", "run", "--no-latency", "--recalibrate", code=2)[1]
    assert "name them with --data NAME" in error


def test_accuracy_is_measured_only_on_data_that_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos(folder / "photos")
    photos(folder / "others", classes=("cat", "dog"))
    run(capsys, "train", "--model", "cifar_resnet8", *PHOTOS, "--out", "run")
    fuse = ["fuse", "run", "--no-latency"]
    error = run(capsys, *fuse, "--data", "imagefolder:others", code=2)[1]
    assert "its classes are cat, dog, but the model was trained on ant, bee" in error
    assert "images have 1 channels, but the model takes 3" in run(capsys, *fuse, "--data", "digits", code=2)[1]
    assert "is the original" in run(capsys, *fuse, "--out", "run/model.safetensors", code=2)[1]
    assert "is a folder" in run(capsys, *fuse, "--out", "run", code=2)[1]


def test_a_swapped_run_goes_on_as_a_child(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before: no way to train a swapped run for more epochs."""
    run(capsys, "train", "--model", "cifar_resnet8", "--data", "digits", "--unit", "circle", *TINY, "--out", "first")
    error = run(capsys, *DIGITS[:2], "cifar_resnet8", *DIGITS[3:], "--weights", "first/model.safetensors", code=1)[1]
    assert "train --from" in error
    printed, _ = run(capsys, "train", "--from", "first", *TINY, "--out", "second")
    assert "next: convswap fuse second" in printed
    trial = Trial.from_json((folder / "second" / "trial.json").read_text())
    parent = Trial.from_json((folder / "first" / "trial.json").read_text())
    assert trial.parent is not None
    assert (trial.parent["run"], trial.data, trial.normalization) == (parent.id, "digits", normalization_of("first"))
    assert trial.recipe["learning_rate"] < 0.1, "the recipe for fine-tuning"
    first, second = (convswap.load(folder / name / "model.safetensors") for name in ("first", "second"))
    assert [type(m) for m in first.modules()] == [type(m) for m in second.modules()]
    assert not torch.equal(first.linear.weight, second.linear.weight)

    run(capsys, "train", "--from", "second", "--unit", "ic", "--where", "layer3.*", *TINY, "--out", "third")
    names = {type(m).__name__ for m in convswap.load(folder / "third" / "model.safetensors").modules()}
    assert {"CircleConv2d", "ICConv2d"} <= names, names
    assert "0 of 359 predictions changed" in run(capsys, "fuse", "third", "--no-latency")[0]
    assert (
        "fused model" in run(capsys, "train", "--from", "third/fused.safetensors", *TINY, "--data", "digits", code=2)[1]
    )


def test_a_grey_run_goes_on_and_is_measured_in_grey(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos(folder / "photos")
    run(capsys, "train", "--model", "cifar_resnet8", *PHOTOS, "--channels", "gray", "--out", "first")
    run(capsys, "train", "--from", "first", *TINY, "--out", "second")
    trial = Trial.from_json((folder / "second" / "trial.json").read_text())
    assert (trial.data_options, trial.image_size) == ({"channels": "gray"}, 32)
    (folder / "photos").rename(folder / "moved")
    for named in ("second", "second/model.safetensors"):
        printed, _ = run(capsys, "fuse", named, "--no-latency", "--data", "imagefolder:moved", "--out", "f.safetensors")
        assert "0 of 12 predictions changed" in printed


def normalization_of(run_folder: str) -> dict[str, list[float]]:
    card = convswap.load(Path(run_folder) / "model.safetensors").convswap_card
    assert card is not None
    return {"mean": list(card.mean), "std": list(card.std)}  # type: ignore[arg-type]


def test_a_child_begins_where_its_parent_ended(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "train", "--model", "cifar_resnet8", "--data", "digits", "--unit", "circle", *TINY, "--out", "first")
    argv = ["train", "--from", "first", *TINY, "--learning-rate", "1e-12", "--out", "second"]
    run(capsys, *argv)
    one, two = (convswap.load(folder / name / "model.safetensors") for name in ("first", "second"))
    for (name, weight), (_, other) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-6, msg=name)  # but BatchNorm's statistics move on
    content = (folder / "first" / "model.safetensors").read_bytes()
    shutil.rmtree(folder / "second")
    run(capsys, "train", "--model", "cifar_resnet8", "--data", "digits", "--seed", "1", *TINY, "--out", "other")
    (folder / "first" / "model.safetensors").write_bytes((folder / "other" / "model.safetensors").read_bytes())
    run(capsys, *argv)
    changed = Trial.from_json((folder / "second" / "trial.json").read_text())
    (folder / "first" / "model.safetensors").write_bytes(content)
    assert "(another network, parent)" in run(capsys, *argv, code=1)[1]
    assert changed.parent is not None


@pytest.mark.parametrize(
    ("argv", "fragment"),
    [
        (["--from", "first", "--weights", "first/model.safetensors"], "--weights and --from exclude each other"),
        (["--from", "first", "--pretrained"], "--pretrained and --from exclude each other"),
        (["--from", "first/model.safetensors"], "name them with --data"),
        (["--from", "frist"], "did you mean 'first'"),
        (["--from", "first", "--model", "resnet18"], "leave --model out"),
        (["--data", "digits"], "missing option '--model'"),
        (["--model", "cifar_resnet8"], "missing option '--data'"),
    ],
)
def test_wrong_ways_to_go_on(argv: list[str], fragment: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "train", "--model", "cifar_resnet8", "--data", "digits", *TINY, "--out", "first")
    assert fragment in run(capsys, "train", *argv, *TINY, code=2)[1]


def grid(*more: str) -> list[str]:
    models = [f"{MODULE}:build", f"{MODULE}:Breaks"]
    return ["compare", *models, "--units", "conv", "--seeds", "1", "--no-latency", "--no-pictures", *TINY, *more]


def rows(lab: Path) -> list[Any]:
    with Store(lab / STORE_FILE, write=False) as store:
        return store.rows()


def test_failed_trials_are_named_and_set_the_exit_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before: exit code 0, and no reason at the end."""
    printed, error = run(capsys, *grid(), code=1)
    assert re.search(
        rf"^failed: {MODULE}:Breaks conv seed 0 \(\w{{16}}\): .*RuntimeError: boom \(", printed, re.MULTILINE
    )
    assert "1 of 2 trials failed" in error
    assert "boom" in run(capsys, *grid("--allow-failed"))[0]
    assert "boom" in run(capsys, "report")[0]
    (forget,) = re.findall(r"convswap (trials .*? --forget \w+)", error)
    assert "forgot" in run(capsys, *shlex.split(forget))[0]
    assert [row.state for row in rows(folder / "convswap-lab")] == ["finished"]
    assert "boom" not in run(capsys, "report")[0]


def test_trials_are_listed_and_forgotten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before: a failed trial stayed in a lab's tables for ever."""
    run(capsys, *grid(), code=1)
    lab = folder / "convswap-lab"
    good, bad = rows(lab)
    printed, _ = run(capsys, "trials")
    for word in (good.id, bad.id, "finished", "failed", "conv", "boom", f"{100 * good.result['test_accuracy']:.2f}"):
        assert word in printed
    assert "is no trial of this lab" in run(capsys, "trials", "--forget", "zzzzzz", code=2)[1]
    assert "too short" in run(capsys, "trials", "--forget", bad.id[:2], code=2)[1]
    assert "goes with --forget" in run(capsys, "trials", "--remove-files", code=2)[1]
    assert "did you mean 'convswap-lab'" in run(capsys, "trials", "convswap-lap", code=1)[1]
    printed, _ = run(capsys, "trials", "--forget", bad.id[:8])
    assert f"its files stay in {Path('convswap-lab', 'trials', bad.id)}" in printed
    assert (lab / "trials" / bad.id).is_dir()
    assert "boom" not in (lab / "report.html").read_text()
    run(capsys, "trials", "--forget", good.id, "--remove-files")
    assert not (lab / "trials" / good.id).exists()
    assert rows(lab) == []


SLIPS = [
    (["see", "ru1"], ["RUN ru1", "did you mean 'run1'"]),
    (["see", "qqqqqqqq9"], ["unknown model 'qqqqqqqq9'; give a timm name (", "package.module:function"]),
    (["fuse", "ru1"], ["RUN ru1", "did you mean 'run1'"]),
    (["train", "--model", "./good.py", "--data", "digits"], ["write 'good:build'"]),
    (["train", "--model", "good.py:build", "--data", "digits"], ["write 'good:build'"]),
    (["train", "--model", "bad:f", "--data", "digits"], ["SyntaxError", "bad.py, line 1", "def f(:"]),
    (
        ["train", "--model", "raises:build", "--data", "digits"],
        ["ZeroDivisionError", "raises.py, line 4, in inner: 1 / 0"],
    ),
    (["train", "--model", "fails:build", "--data", "digits"], ["KeyError", "fails.py, line 1"]),
    (["plan", "raises:build", "circle"], ["ZeroDivisionError", "raises.py, line 2, in build"]),
    (["check-unit", "x", "--module", "bad"], ["--module bad", "SyntaxError"]),
    (["train", "--model", "cifar_resnet8", "--data", "digits", "--seed", str(2**63)], ["seed=9223372036854775808"]),
    (["plan", "cifar_resnet8", "circle", "--where", "3x3 & ("], ["not well-formed", "'(' at character 7"]),
    (["plan", "cifar_resnet8", "circle", "--where", "layer1"], ["'layer1.*'"]),
    (["plan", "vit_tiny_patch16_224", "circle"], ["only convolution", "patch_embed.proj (16x16, 3 -> 192)", "--where"]),
]


@pytest.mark.parametrize(("argv", "fragments"), SLIPS, ids=[" ".join(argv) for argv, _ in SLIPS])
def test_a_slip_is_one_line_with_the_nearest_fix(
    argv: list[str], fragments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "run1").mkdir()
    (folder / "good.py").write_text("def build(num_classes):\n    pass\n")
    (folder / "bad.py").write_text("def f(:\n")
    (folder / "raises.py").write_text("def build():\n    inner()\ndef inner():\n    1 / 0\n")
    (folder / "fails.py").write_text("{}['x']\n")
    _, error = run(capsys, *argv, code=2)
    assert error.count("\n") == 1
    assert "Traceback" not in error
    for fragment in fragments:
        assert fragment in error, error
    for name in ("good", "bad", "raises", "fails"):
        sys.modules.pop(name, None)


def test_a_model_that_never_runs_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_module(0, OWN.replace("if self.training:", "if True:").replace("{width}", "4"))
    for verb in (["train", "--model", f"{MODULE}:Breaks", *TINY], ["compare", f"{MODULE}:Breaks", *TINY]):
        error = run(capsys, *verb, "--data", "digits", code=1)[1]
        assert error.count("\n") == 1
        assert f"boom ({MODULE}.py, line 18, in forward" in error


def test_a_training_that_breaks_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["train", "--model", f"{MODULE}:Breaks", "--data", "digits", *TINY]
    error = run(capsys, *argv, code=1)[1]
    assert error.count("\n") == 1
    assert f"the model fails with RuntimeError: boom ({MODULE}.py, line 18, in forward" in error


LINEAR = """
from torch import nn

def build(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""


def test_a_diverged_training_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before: a loss of 8.6e28 passed as a result."""
    write_module(0, LINEAR)
    model, far = f"{MODULE}:build", ["--learning-rate", "100", *TINY]
    printed, _ = run(capsys, "compare", model, "--units", "conv", "--seeds", "1", "--no-latency", "--no-pictures", *far)
    assert re.search(rf"^warning: {model} conv seed 0 .* loss ended at .* the training diverged", printed, re.MULTILINE)
    (result,) = (folder / "convswap-lab").glob("trials/*/result.json")
    (warning,) = json.loads(result.read_text())["warnings"]
    assert warning in (folder / "convswap-lab" / "report.html").read_text()
    assert warning in run(capsys, "report")[0]
    assert f"warning: {warning}" in run(capsys, "train", "--model", model, "--data", "digits", *far)[0]
