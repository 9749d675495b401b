"""Output in any encoding and any width: plain signs in place of errors, and no column that vanishes without a word."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.table import Table

from convswap.cli import main
from convswap.cli.app import app
from convswap.cli.failure import as_failure
from convswap.cli.streams import console, each_warning_once, plain
from convswap.lab import Store, Trial
from convswap.lab.report import terminal_table
from convswap.lab.store import STORE_FILE
from convswap.lab.summary import summarize

ENCODINGS = ["cp1252", "cp437", "ascii", "latin-1", "cp932", "utf-8"]
LAB = ["--seeds", "1", "--epochs", "1", "--quiet", "--no-latency", "--no-pictures", "--robustness", "quick"]
VERBS: dict[str, list[str]] = {
    "units": ["units"],
    "check-unit": ["check-unit", "--list"],
    "plan": ["plan", "cifar_resnet8", "circle", "--num-classes", "10"],
    "report": ["report", "lab"],
    "trials": ["trials", "lab"],
    "regularizers": ["regularizers"],
    "compare": ["compare", "--units", "circle", "--lab", "lab", *LAB],
    "train": ["train", "--model", "cifar_resnet8", "--data", "digits", "--epochs", "1", "--quiet", "--out", "run"],
    "fuse": ["fuse", "run", "--no-latency"],
    "prune": ["prune", "run", "--keep-macs", "0.7", "--criterion", "l1", "--out", "narrow", "--quiet"],
    "remove-residuals": ["remove-residuals", "cifar_resnet8"],
    "replace-pooling": ["replace-pooling", "all_cnn_base_a"],
    "see": ["see", "run", "--images", "4"],
    "recipes": ["recipes"],
    "doctor": ["doctor"],
}


def test_every_verb_is_tried_here() -> None:
    assert {command.name for command in app.registered_commands} == VERBS.keys()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and a lab, whose circle is worse than conv by the look of it: the table has a minus sign."""
    folder = tmp_path_factory.mktemp("streams")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(VERBS["train"]) == 0
        assert main(VERBS["compare"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_verb_speaks_every_encoding(encoding: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before: UnicodeEncodeError on cp1252 after all the training, and `units` crashed on an ascii console."""
    monkeypatch.chdir(home)
    for verb, argv in VERBS.items():
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        codes = [main(argv), main([verb, "--help"])]
        monkeypatch.undo()
        monkeypatch.chdir(home)
        for stream in (out, err):
            stream.flush()
        assert codes == [0, 0], err.buffer.getvalue()  # type: ignore[attr-defined]
        printed = out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        assert f"convswap {verb}" in printed
        assert "\N{REPLACEMENT CHARACTER}" not in printed


@pytest.mark.parametrize(
    ("text", "encoding", "expected"),
    [
        ("97.31 ± 0.42", "cp437", "97.31 ± 0.42"),
        ("97.31 ± 0.42", "ascii", "97.31 +- 0.42"),
        ("\N{MINUS SIGN}0.31", "cp1252", "-0.31"),
        ("3×3 → 5 …", "ascii", "3x3 -> 5 ..."),
        ("▲▼ ≤ ≥ ≈", "latin-1", "^v <= >= ~"),
        ("été 雪", "ascii", "ete ?"),
        ("k²", "ascii", "k2"),
        ("bad \udcff name", "utf-8", "bad ? name"),
    ],
)
def test_signs_have_plain_equivalents(text: str, encoding: str, expected: str) -> None:
    assert plain(text, encoding) == expected


def test_columns_stay_in_line_where_signs_are_replaced() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    table = Table("a", "b", title="± title")
    table.add_row("1 ± 2 … 3", "x")
    table.add_row("1", "y")
    console(file=stream, width=60).print(table)
    stream.flush()
    lines = stream.buffer.getvalue().decode().splitlines()  # type: ignore[attr-defined]
    assert {len(line) for line in lines[1:]} == {len(lines[1])}
    assert lines[1].startswith("+")


def test_a_narrow_terminal_says_what_it_leaves_out() -> None:
    trials = [
        Trial(model="m", data="digits", data_fingerprint="f", recipe={}, seed=seed, unit=unit)
        for unit in ("conv", "circle")
        for seed in range(2)
    ]
    from convswap.lab import StoredTrial

    rows = summarize(
        StoredTrial(t.id, t, "finished", {"test_accuracy": 0.9 + t.seed / 100, "parameters": 10}, None, 0.0, 1.0)
        for t in trials
    )
    narrow, wide = (terminal_table(rows, width=width).caption for width in (40, 200))
    for name in ("p (Holm)", "params", "MACs"):
        assert name in str(narrow)
    assert "see the report" in str(narrow)
    assert "no room" not in str(wide)


def test_the_hint_of_the_first_ctrl_c_outlives_the_second() -> None:
    with pytest.raises(KeyboardInterrupt) as second:  # noqa: PT012
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as first:
            first.add_note("run the same command again to resume")
            raise KeyboardInterrupt from None  # the second, while the first is on its way up
    assert "run the same command again to resume" in str(as_failure(second.value))


def _hear_hangup() -> None:
    """Undo what `nohup` of the whole test run would hand down."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _started(folder: Path, environment: dict[str, str], *prefix: str) -> subprocess.Popen[str]:
    argv = ["compare", "--units", "conv", "--seeds", "1", "--epochs", "1000", "--quiet", "--lab", "lab"]
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", "convswap", *argv],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
        preexec_fn=_hear_hangup,
    )
    deadline = time.monotonic() + 240
    while not list(folder.rglob("checkpoint.pt")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def _states(lab: Path) -> list[str]:
    with Store(lab / STORE_FILE, write=False) as store:
        return [row.state for row in store.rows()]


@pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be sent to one process there")
@pytest.mark.parametrize("signals", [["SIGINT", "SIGINT"], ["SIGHUP"], ["SIGTERM"]], ids=" ".join)
def test_stopped_in_any_way_it_says_how_to_go_on(
    signals: list[str], tmp_path: Path, child_environment: Callable[..., dict[str, str]]
) -> None:
    """Before: SIGHUP killed the process (-1) and left the trial running; a second Ctrl-C lost the hint."""
    process = _started(tmp_path, child_environment())
    try:
        for name in signals:
            process.send_signal(getattr(signal, name))
            time.sleep(0.01)
        error = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert re.search(r"convswap: interrupted; run the same command again to resume from the last epoch", error)
    assert _states(tmp_path / "lab") == ["interrupted"]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no nohup")
def test_nohup_is_respected(tmp_path: Path, child_environment: Callable[..., dict[str, str]]) -> None:
    process = _started(tmp_path, child_environment(), "nohup")
    try:
        process.send_signal(signal.SIGHUP)
        time.sleep(1)
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


def test_a_warning_is_said_once_in_a_command(caplog: pytest.LogCaptureFixture) -> None:
    """Before: `w.pth: the classifier has other classes and starts fresh`, once for every trial."""
    logger = logging.getLogger("convswap")
    for _ in range(2):
        with each_warning_once():
            for name in ("one", "one", "two"):
                logger.warning("%s starts fresh", name)
    logger.warning("%s starts fresh", "two")
    assert [record.getMessage().split()[0] for record in caplog.records] == ["one", "two", "one", "two", "two"]
