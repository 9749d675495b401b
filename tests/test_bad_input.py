"""Whatever a person gets wrong is one clear line on stderr, an exit code that is not 0, no traceback, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from convswap.cli import main
from convswap.cli.failure import as_failure

QUICK = ["--units", "conv", "--epochs", "1", "--seeds", "1", "--no-latency", "--quiet"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVSWAP_DATA", raising=False)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], argv: list[str], code: int, *fragments: str) -> None:
    """Run, and check that exactly one line on stderr says what is wrong."""
    assert main(argv) == code
    error = capsys.readouterr().err
    assert error.startswith("convswap: error: "), error
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    for fragment in fragments:
        assert fragment in error, error


USAGE = [
    # the command line itself
    (["comapre"], ["'comapre'", "compare", "convswap --help"]),
    (["--bogus"], ["--bogus", "convswap --help"]),
    (["compare", "--bogus"], ["--bogus", "convswap compare --help"]),
    (["compare", "--epochs", "many"], ["--epochs", "convswap compare --help"]),
    (["compare", "--seeds", "0"], ["--seeds", "1"]),
    (["plan", "cifar_resnet8"], ["UNIT", "convswap plan --help"]),
    (["train", "--data", "digits"], ["--model", "convswap train --help"]),
    # names
    (["units", "cirlce"], ["unit 'cirlce'", "did you mean 'circle'"]),
    (["plan", "cifar_resnet8", "cirlce"], ["unit 'cirlce'", "did you mean 'circle'"]),
    (["plan", "cifar_resnet9", "circle"], ["model 'cifar_resnet9'", "'cifar_resnet8'"]),
    (["plan", "torchvision:resnet19", "circle"], ["resnet19", "resnet18"]),
    (["plan", "no_such_package:net", "circle"], ["no_such_package"]),
    (["plan", "collections:no_such_net", "circle"], ["no_such_net", "collections"]),
    (["compare", "--units", "conv,circel"], ["unit 'circel'", "did you mean 'circle'"]),
    (["compare", "--units", ","], ["--units", "conv,circle"]),
    (["compare", "--data", "digist"], ["data set 'digist'", "'digits'"]),
    (["compare", "cifar_resnet9"], ["model 'cifar_resnet9'", "'cifar_resnet8'"]),
    (["train", "--model", "cifar_resnet8", "--data", "cifra10"], ["data set 'cifra10'", "'cifar10'"]),
    # unit options
    (["compare", "--option", "circle.radus=1"], ["option of unit circle 'radus'", "'radius'"]),
    (["compare", "--option", "circle.radius=9"], ["radius=9", "sqrt(2)"]),
    (["compare", "--option", "circle.angles=odd"], ["angles='odd'", "'even'"]),
    (["compare", "--option", "radius=1"], ["'radius=1'", "UNIT.KEY=VALUE"]),
    (["compare", "--option", "circle.radius"], ["'circle.radius'", "UNIT.KEY=VALUE"]),
    (["compare", "--units", "circle", "--option", "ic.w_init=1"], ["'ic.w_init=1'", "'ic' is not among", "circle"]),
    (["plan", "cifar_resnet8", "circle", "--option", "radius"], ["'radius'", "KEY=VALUE"]),
    (["plan", "cifar_resnet8", "circle", "--where", "3x3 & "], ["where='3x3 & '", "empty"]),
    (["plan", "cifar_resnet8", "circle", "--where", "encoder.*"], ["where='encoder.*'", "none"]),
    # values
    (
        ["train", "--model", "cifar_resnet8", "--data", "digits", "--learning-rate", "-1"],
        ["learning_rate=-1", "above 0"],
    ),
    (["train", "--model", "cifar_resnet8", "--data", "digits", "--image-size", "9"], ["image_size=9", "digits"]),
    (["train", "--model", "cifar_resnet8", "--data", "digits", "--device", "gpu"], ["device='gpu'", "'cuda'"]),
    (["train", "--model", "cifar_resnet8", "--data", "digits", "--unit", "conv,circle"], ["--unit", "one unit"]),
    (["compare", "--normalization", "imagenet"], ["normalization='imagenet'", "'data'", "MEAN"]),
    # regularisers
    (["regularizers", "cutmx"], ["'cutmx'", "did you mean 'cutmix'?"]),
    (["compare", "--regularize", "mixpu"], ["'mixpu'", "did you mean 'mixup'?"]),
    (["compare", "--regularize", "mixup:aplha=1"], ["option of mixup 'aplha'", "'alpha'"]),
    (["compare", "--regularize", "mixup,cutmix"], ["'cutmix' and 'mixup' cannot be combined", "mixup_cutmix"]),
    (["compare", "--regularize", "jocor,mixup"], ["'mixup' and 'jocor' cannot be combined", "no label of their own"]),
    (["compare", "--regularize", "jocor,dropout"], ["'dropout' and 'jocor' cannot be combined", "two networks"]),
    (["compare", "--recipe", "binary", "--regularize", "mixup"], ["'mixup' with loss='squared_hinge'"]),
    (["compare", "--regularize", "cutout"], ["length=16 hides whole images of 8x8", "cutout:4"]),
    (["compare", "--regularize", "puzzlemix"], ["'puzzlemix' is not offered", "cutmix"]),
    (["compare", "--regularize", "none,cutout"], ["'none,cutout'", "none alone"]),
    # paths
    (
        ["train", "--model", "cifar_resnet8", "--data", "digits", "--weights", "no.th"],
        ["--weights no.th", "does not exist"],
    ),
    (["plan", "cifar_resnet8", "circle", "--weights", "."], ["--weights .", "folder"]),
    (["fuse", "nowhere"], ["nowhere", "does not exist", ".safetensors"]),
    (["fuse", "."], ["no model.safetensors"]),
]


@pytest.mark.parametrize(("argv", "fragments"), USAGE, ids=[" ".join(argv) for argv, _ in USAGE])
def test_a_wrong_command_line_is_one_line_and_2(
    argv: list[str], fragments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, argv, 2, *fragments)
    assert list(folder.iterdir()) == []  # nothing was begun


def contents(path: Path) -> object:
    """The bytes of a file, or what a database holds."""
    data = path.read_bytes()
    if not data.startswith(b"SQLite format 3"):
        return data
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def not_a_checkpoint(folder: Path) -> list[str]:
    (folder / "w.th").write_bytes(b"this is no checkpoint")
    return ["train", "--model", "cifar_resnet8", "--data", "digits", "--weights", "w.th"]


def foreign_checkpoint(folder: Path) -> list[str]:
    import torch

    torch.save({"state_dict": {"body.weight": torch.zeros(2, 2)}}, folder / "w.th")
    return ["train", "--model", "cifar_resnet8", "--data", "digits", "--weights", "w.th"]


def pickled_checkpoint(folder: Path) -> list[str]:
    import pickle

    (folder / "w.th").write_bytes(pickle.dumps(print))
    return ["train", "--model", "cifar_resnet8", "--data", "digits", "--weights", "w.th"]


def damaged_model(folder: Path) -> list[str]:
    (folder / "m.safetensors").write_bytes(b"\x00" * 100)
    return ["fuse", "m.safetensors"]


def damaged_npz(folder: Path) -> list[str]:
    (folder / "d.npz").write_bytes(b"PK no archive")
    return ["compare", "--data", "npz:d.npz"]


def missing_npz(folder: Path) -> list[str]:
    return ["compare", "--data", "npz:d.npz"]


def missing_image_folder(folder: Path) -> list[str]:
    return ["compare", "--data", "imagefolder:photos"]


def no_lab(folder: Path) -> list[str]:
    return ["report", "nowhere"]


def damaged_lab(folder: Path) -> list[str]:
    (folder / "lab").mkdir()
    (folder / "lab" / "lab.sqlite").write_bytes(b"not a database" * 100)
    return ["compare", *QUICK, "--lab", "lab"]


def other_database(folder: Path) -> list[str]:
    (folder / "lab").mkdir()
    with closing(sqlite3.connect(folder / "lab" / "lab.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    return ["compare", *QUICK, "--lab", "lab"]


def later_lab(folder: Path) -> list[str]:
    from convswap.lab import Store

    (folder / "lab").mkdir()
    Store(folder / "lab" / "lab.sqlite").close()
    with closing(sqlite3.connect(folder / "lab" / "lab.sqlite")) as connection, connection:
        connection.execute("UPDATE meta SET value = '999' WHERE key = 'version'")
    return ["compare", *QUICK, "--lab", "lab"]


def lab_is_a_file(folder: Path) -> list[str]:
    (folder / "lab").write_text("a note")
    return ["compare", *QUICK, "--lab", "lab"]


def lab_in_use(folder: Path) -> list[str]:
    (folder / "lab").mkdir()
    program = (
        "import sys; from convswap.lab import Store; s = Store('lab/lab.sqlite'); print('held', flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    HOLDERS.append(holder)
    return ["compare", *QUICK, "--lab", "lab"]


HOLDERS: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _let_go() -> object:
    yield
    while HOLDERS:
        HOLDERS.pop().communicate("\n", timeout=60)


FAILURES: list[tuple[Callable[[Path], list[str]], list[str]]] = [
    (not_a_checkpoint, ["w.th"]),
    (foreign_checkpoint, ["w.th", "does not fit cifar_resnet8"]),
    (pickled_checkpoint, ["w.th"]),
    (damaged_model, ["m.safetensors"]),
    (damaged_npz, ["d.npz", "damaged"]),
    (missing_npz, ["d.npz", "no such file"]),
    (missing_image_folder, ["photos", "no such folder"]),
    (no_lab, ["nowhere", "no lab"]),
    (damaged_lab, ["lab.sqlite"]),
    (other_database, ["lab.sqlite", "not a convswap lab"]),
    (later_lab, ["lab.sqlite", "999"]),
    (lab_is_a_file, ["lab"]),
    (lab_in_use, ["lab", "in use"]),
]


@pytest.mark.parametrize(("prepare", "fragments"), FAILURES, ids=[case.__name__ for case, _ in FAILURES])
def test_a_failure_is_one_line_and_1(
    prepare: Callable[[Path], list[str]], fragments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = prepare(folder)
    before = {
        path: contents(path) for path in folder.rglob("*") if path.is_file() and not path.name.startswith("lab.lock")
    }
    refused(capsys, argv, 1, *fragments)
    after = {path: contents(path) for path in before}
    assert after == before  # what was there is untouched


def test_a_full_disk_keeps_what_is_done(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace
    left = 3

    def full(*arguments: object, **more: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[1]))
        replace(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", full)
    argv = ["compare", "--units", "conv", "--epochs", "3", "--seeds", "1", "--no-latency", "--quiet"]
    refused(capsys, argv, 1, "disk is full", "free some space", "same command again")
    monkeypatch.undo()
    os.chdir(folder)
    assert main(argv) == 0
    (result,) = (folder / "convswap-lab" / "trials").glob("*/result.json")
    assert len(json.loads(result.read_text())["history"]) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process there")
@pytest.mark.parametrize("verb", ["compare", "train"])
def test_ctrl_c_says_how_to_go_on(verb: str, folder: Path) -> None:
    long = ["--epochs", "1000", "--quiet"]
    argv = {
        "compare": ["compare", "--units", "conv", "--seeds", "1", *long],
        "train": ["train", "--model", "cifar_resnet8", "--data", "digits", "--out", "run", *long],
    }[verb]
    process = subprocess.Popen([sys.executable, "-m", "convswap", *argv], stderr=subprocess.PIPE, text=True, cwd=folder)
    try:
        deadline = time.monotonic() + 120
        while not list(folder.rglob("checkpoint.pt")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in error
    assert error.strip().splitlines()[-1].startswith("convswap: interrupted; run the same command again")
    assert list(folder.rglob("checkpoint.pt"))  # to go on from


@pytest.mark.parametrize(
    ("error", "fragments"),
    [
        (
            ModuleNotFoundError("No module named 'timm'", name="timm"),
            ["timm is not installed", 'pip install "convswap[lab]"'],
        ),
        (ModuleNotFoundError("No module named 'PIL'", name="PIL.Image"), ["PIL", "convswap[lab]"]),
        (ModuleNotFoundError("No module named 'onnx'", name="onnx"), ["convswap[onnx]"]),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), ["Permission denied", "'/x'", "another place"]),
        (OSError(errno.ENOSPC, "No space left on device"), ["No space left", "free some space"]),
        (OSError("strange"), ["strange"]),
    ],
)
def test_what_else_can_go_wrong(error: BaseException, fragments: list[str]) -> None:
    failure = as_failure(error)
    assert failure is not None
    assert failure.code == 1
    assert all(fragment in str(failure) for fragment in fragments)


@pytest.mark.parametrize(
    "error", [TypeError("x"), AssertionError(), ModuleNotFoundError("x", name="my_own"), KeyError("k")]
)
def test_programming_errors_keep_their_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    assert as_failure(error) is None

    def broken(*arguments: object) -> object:
        raise error

    monkeypatch.setattr("convswap.units.list_units", broken)
    with pytest.raises(type(error)):
        main(["units"])
