"""The command line, from the arguments to what is printed and written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from convswap import __version__, list_units
from convswap.cli import main
from convswap.cli.options import absolute_data, parse_options, parse_units, parse_where
from convswap.errors import UsageError
from convswap.regularizers import NOT_OFFERED, REGULARIZERS, list_regularizers

VERBS = ["compare", "units", "plan", "train", "fuse", "prune", "see", "report", "remove-residuals"]
VERBS += ["replace-pooling", "recipes", "regularizers", "trials", "check-unit", "doctor"]
TINY = ["--epochs", "1", "--quiet"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and a terminal wide enough for whole lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("CONVSWAP_DATA", raising=False)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a command that succeeds prints."""
    code = main(argv)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == f"convswap {__version__}\n"


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_names_every_verb(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, *argv)
    assert all(verb in printed for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, verb, "--help")
    assert f"convswap {verb}" in printed
    assert verb == "doctor" or "Examples" in printed


def test_units_lists_the_registry(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, "units")
    assert all(name in printed for name in list_units())
    rows = json.loads(run(capsys, "units", "c*", "--json"))
    assert [row["name"] for row in rows] == list_units("c*")
    circle = next(row for row in rows if row["name"] == "circle")
    assert circle["options"] == {"angles": "even", "ring": "max", "radius": 1.0}


def test_one_unit_is_shown_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, "units", "circle")
    assert "arXiv:2107.02451" in printed
    assert "radius=1.0" in printed
    assert "exactly the functions of the square kernel" in printed


def test_regularizers_lists_the_registry(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, "regularizers")
    assert all(name in printed for name in [*REGULARIZERS, *NOT_OFFERED])
    rows = json.loads(run(capsys, "regularizers", "--json"))
    assert [row["name"] for row in rows] == list_regularizers()
    printed = run(capsys, "regularizers", "cutmix")
    assert "arXiv:1905.04899" in printed
    assert "alpha=1.0, probability=0.5" in printed
    assert "1 - area / (H W)" in printed


def test_a_regularizer_is_part_of_a_trial(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["train", "--model", "cifar_resnet8", "--data", "digits", *TINY]
    for given, kept in (("mixup:0.2,cutout:4", ["cutout:length=4", "mixup:alpha=0.2"]), ("tsla", ["tsla"])):
        run(capsys, *argv, "--regularize", given, "--out", given[:4])
        recipe = json.loads((folder / given[:4] / "trial.json").read_text())["recipe"]
        assert recipe["regularize"] == kept
        assert recipe["label_smoothing"] == (0.0 if given == "tsla" else 0.1)
    run(capsys, *argv, "--regularize", "none", "--out", "none")
    assert "regularize" not in json.loads((folder / "none" / "trial.json").read_text())["recipe"]


def test_plan_prints_a_table_or_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["plan", "cifar_resnet8", "circle", "--where", "layer3.*", "--option", "radius=1.2"]
    assert "layer3.0.conv2" in run(capsys, *argv)
    plan = json.loads(run(capsys, *argv, "--json"))
    assert [r["path"] for r in plan["replacements"]] == ["layer3.0.conv1", "layer3.0.conv2"]
    assert plan["options"] == {"radius": 1.2}
    assert plan["replacements"][0]["macs_before"] is not None
    assert list(folder.iterdir()) == []


def test_compare_trains_reports_and_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["compare", "--units", "circle", "--seeds", "1", *TINY]
    printed = run(capsys, *argv)
    assert "cifar_resnet8" in printed
    assert "circle" in printed
    assert "baseline" in printed  # conv was added
    assert printed.splitlines()[-1] == f"report: {Path('convswap-lab') / 'report.html'}"
    page = (folder / "convswap-lab" / "report.html").read_text()
    assert "convswap compare --units circle --seeds 1 --epochs 1 --quiet" in page
    results = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    assert len(results) == 2
    latency = json.loads((folder / "convswap-lab" / "latency.json").read_text())
    assert len(latency["trials"]) == 2
    assert all({"latency_ms", "latency_fused_ms"} <= row.keys() for row in latency["trials"].values())

    run(capsys, *[arg if arg != "1" or argv[i - 1] != "--seeds" else "2" for i, arg in enumerate(argv)])
    assert len(list(folder.rglob("result.json"))) == 4
    assert {path: path.stat().st_mtime_ns for path in results} == results  # nothing ran twice
    assert json.loads((folder / "convswap-lab" / "latency.json").read_text()) == latency

    assert "circle" in run(capsys, "report")
    page = (folder / "convswap-lab" / "report.html").read_text()
    assert "--seeds 1" in page
    assert "--seeds 2" in page


def test_train_then_fuse(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["train", "--model", "cifar_resnet8", "--data", "digits", "--unit", "circle_mix", "--seed", "3", *TINY]
    printed = run(capsys, *argv)
    (run_folder,) = (folder / "runs").iterdir()
    assert run_folder.name.startswith("cifar_resnet8-circle_mix-digits-seed3-")
    assert f"next: convswap fuse {Path('runs') / run_folder.name}" in printed
    assert run(capsys, *argv) == printed  # a finished run is shown, not run again

    printed = run(capsys, "fuse", str(run_folder))
    assert "largest relative difference in float64" in printed
    assert "latency" in printed
    assert "0 of 359 predictions changed" in printed
    assert "--recalibrate" in printed
    fused = run_folder / "fused.safetensors"

    import convswap

    names = {type(module).__name__ for module in convswap.load(fused).modules()}
    assert "CircleMixConv2d" not in names
    assert "BatchNorm2d" not in names
    printed = run(capsys, "fuse", str(run_folder), "--recalibrate", "--no-latency")
    assert "test accuracy" in printed


def test_fuse_takes_a_saved_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    import convswap

    model = convswap.create_model("cifar_resnet8", num_classes=4, in_channels=1)
    image = torch.zeros(1, 1, 16, 16)
    swapped = convswap.swap(model, "circle", where="layer1.*", example_input=image)
    convswap.save(swapped, folder / "mine.safetensors")
    printed = run(capsys, "fuse", "mine.safetensors", "--image-size", "16", "--no-latency")
    assert "fused 2 units" in printed
    assert (folder / "mine-fused.safetensors").is_file()


def test_train_starts_from_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["train", "--model", "cifar_resnet8", "--data", "digits", *TINY]
    run(capsys, *common, "--out", "first")
    run(capsys, *common, "--out", "second", "--unit", "circle", "--weights", "first/model.safetensors")
    trial = json.loads((folder / "second" / "trial.json").read_text())
    assert trial["start"] == "warm"
    assert trial["weights"]["file"] == str(folder / "first" / "model.safetensors")
    assert trial["recipe"]["learning_rate"] < 0.1  # fine-tuning is gentle


def test_normalization_follows_the_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["train", "--model", "cifar_resnet8", "--data", "digits", *TINY]
    run(capsys, *common, "--out", "first", "--normalization", "0.4/0.3")
    run(capsys, *common, "--out", "second", "--weights", "first/model.safetensors")
    trial = json.loads((folder / "second" / "trial.json").read_text())
    assert trial["normalization"] == {"mean": [0.4], "std": [0.3]}
    assert "0 of 359 predictions changed" in run(capsys, "fuse", "second", "--no-latency")


def test_a_comparison_in_which_all_fails_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["compare", "--units", "conv", "--seeds", "1", "--learning-rate", "1e30", *TINY]
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert error.startswith("convswap: error: all 1 trials failed")
    assert "--retry-failed" in error
    assert error.count("\n") == 1


def test_doctor_says_what_is_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, "doctor")
    for what in ("torch", "bfloat16", "optional packages", "data root", "registered"):
        assert what in printed


def without(package: str) -> str:
    """A program that runs the command line as if a package were not installed."""
    return (
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {package!r}:\n"
        f"            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "from convswap.cli import main\n"
        "sys.exit(main())\n"
    )


@pytest.mark.parametrize(
    ("package", "argv", "code", "fragment"),
    [
        ("typer", ["compare"], 1, 'typer is not installed; the command line needs it: pip install "convswap[lab]"'),
        ("typer", ["--version"], 0, ""),
        ("typer", ["doctor"], 0, ""),
        ("hypothesis", ["check-unit", "conv"], 1, "hypothesis is not installed; checking units needs it"),
        ("timm", ["plan", "cifar_resnet8", "circle"], 1, "timm is not installed; every model by name needs it"),
    ],
)
def test_without_the_lab_extra(package: str, argv: list[str], code: int, fragment: str, folder: Path) -> None:
    command = [sys.executable, "-c", without(package), *argv]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == code, done.stderr
    assert fragment in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_error(folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "convswap", "units"], stdout=write, stderr=subprocess.PIPE, text=True, timeout=120
    )
    os.close(write)
    assert done.stderr == ""


def test_options_are_typed() -> None:
    given = ["circle.radius=1.2", "circle.angles=arctan", "circle.radius=learnable"]
    assert parse_options(given, {"conv": {}, "circle": {}}) == {
        "conv": {},
        "circle": {"radius": "learnable", "angles": "arctan"},
    }
    assert parse_options(["ring=floor"], {"circle": {}}) == {"circle": {"ring": "floor"}}
    assert parse_options(["radius=NaN"], {"circle": {}}) == {"circle": {"radius": "NaN"}}


def test_units_are_a_list_without_repetitions() -> None:
    assert parse_units(" circle, conv,circle,") == {"circle": {}, "conv": {}}
    with pytest.raises(UsageError, match="did you mean 'circle'"):
        parse_units("conv,cirle")


def test_places_are_for_all_units_or_for_one() -> None:
    units = ["conv", "circle", "pide"]
    assert parse_where([], units) == {"conv": None, "circle": None, "pide": None}
    assert parse_where(["3x3", "pide = same & *.1"], units) == {"conv": "3x3", "circle": "3x3", "pide": "same & *.1"}
    with pytest.raises(UsageError, match="'ic' is not among conv, circle, pide"):
        parse_where(["ic=3x3"], units)
    with pytest.raises(UsageError, match="of unit 'pide' are already given as 'all'"):
        parse_where(["pide=all", "pide=same"], units)
    with pytest.raises(UsageError, match="of all units are already given as '3x3'"):
        parse_where(["3x3", "5x5"], units)


def test_one_unit_is_compared_in_places_of_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--where", "circle=3x3 & layer3.*", "--seeds", "1", "--no-latency"]
    run(capsys, "compare", "--units", "circle,ic", *where, *TINY)
    trials = [json.loads(path.read_text()) for path in folder.glob("convswap-lab/trials/*/trial.json")]
    assert {(t["unit"], t["where"]) for t in trials} == {("conv", None), ("circle", "3x3 & layer3.*"), ("ic", None)}


def test_paths_of_data_are_made_absolute(folder: Path) -> None:
    assert absolute_data("digits") == "digits"
    assert absolute_data("imagefolder:photos") == f"imagefolder:{folder / 'photos'}"


def test_compare_measures_robustness_of_what_is_trained(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["compare", "--units", "conv", "--seeds", "1", "--no-latency", *TINY]
    assert "robustness, %" not in run(capsys, *argv)
    (result,) = folder.glob("convswap-lab/trials/*/result.json")
    trained = result.stat().st_mtime_ns
    printed = run(capsys, *argv, "--robustness", "quick")
    assert "robustness, %" in printed
    assert "profile quick, 359 images" in printed
    assert result.stat().st_mtime_ns == trained
    assert "profile quick, 359 images" in run(capsys, "report")
    page = (folder / "convswap-lab" / "report.html").read_text(encoding="utf-8")
    assert "359 test images, perturbed with random numbers of seed 0" in page
    assert "the images are smaller than 16x16" in page
    result.with_name("robustness-quick.json").write_text("{")
    assert main(["report"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "robustness-quick.json is damaged" in error
    assert "delete it: robustness is then measured again" in error


def test_an_unknown_profile_is_refused_before_anything_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--robustness", "fast", *TINY]) == 2
    error = capsys.readouterr().err
    assert error == "convswap: error: --robustness='fast' is not allowed; choose one of 'none', 'quick', 'full'\n"
    assert list(folder.iterdir()) == []
