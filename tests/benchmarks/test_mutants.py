"""The list of plausible bugs is fresh, and the tool that tries them tells right from wrong."""

from __future__ import annotations

import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import ROOT
from benchmarks.tools.mutants.__main__ import chosen, in_turns, score, table
from benchmarks.tools.mutants.catalogue import Mutant, StaleMutant, read_mutants
from benchmarks.tools.mutants.copies import Runner, applied, check_copy, copy_tree
from benchmarks.tools.mutants.trial import Record, check_right, judge

MUTANTS = read_mutants()
ROOMS = {"cli", "data", "lab", "measure", "models", "ops", "regularizers", "see", "surgery", "train", "units"}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.title)
def test_every_bug_still_fits_the_code(mutant: Mutant) -> None:
    text = mutant.mutated(ROOT)
    assert mutant.file.startswith(f"src/convswap/{mutant.room}/")
    assert mutant.test_files(ROOT)
    if mutant.file.endswith(".py"):
        compile(text, mutant.file, "exec")  # a bug that is no Python tells nothing of the tests


def test_every_room_has_bugs() -> None:
    counts = Counter(mutant.room for mutant in MUTANTS)
    assert counts.keys() == ROOMS
    assert min(counts.values()) >= 8
    assert counts.total() >= 110


def test_equivalent_ones_are_argued() -> None:
    assert all(len(mutant.equivalent) > 40 for mutant in MUTANTS if mutant.equivalent is not None)


SUMS = "def double(x):\n    return 2 * x\n\n\ndef unused(x):\n    while x < 1:\n        x += 1\n"
TEST = "from convswap.sums import double\n\n\ndef test_double():\n    assert double(3) == 6\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository of one module and its tests, with a package that is called as ours."""
    root = tmp_path / "repository"
    for name, text in {
        "src/convswap/__init__.py": "",
        "src/convswap/sums.py": SUMS,
        "tests/test_sums.py": TEST,
        "tests/test_red.py": "def test_red():\n    assert False\n",
        ".gitignore": "ignored.txt\n",
        "ignored.txt": "",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "-q", root], check=True)
    return root


BUG = Mutant(
    room="sums",
    name="tripled",
    file="src/convswap/sums.py",
    old="2 * x",
    new="3 * x",
    tests=("tests/test_sums.py",),
)


def test_a_bug_must_fit_exactly_once(tree: Path) -> None:
    assert "3 * x" in BUG.mutated(tree)
    for change, words in (
        ({"old": "4 * x"}, "0 times"),
        ({"old": "x"}, "5 times"),
        ({"new": "2 * x"}, "are the same"),
        ({"file": "src/convswap/gone.py"}, "there is no src/convswap/gone.py"),
    ):
        with pytest.raises(StaleMutant, match=words):
            replace(BUG, **change).mutated(tree)
    for tests, words in ((("tests/gone.py",), "there is no tests/gone.py"), (("-k double",), "names no path")):
        with pytest.raises(StaleMutant, match=words):
            replace(BUG, tests=tests).test_files(tree)


def test_the_key_follows_edit_file_and_tests(tree: Path) -> None:
    keys = [BUG.key(tree), replace(BUG, new="5 * x").key(tree)]
    for name in ("src/convswap/sums.py", "tests/test_sums.py"):
        with (tree / name).open("a") as file:
            file.write("# more\n")
        keys.append(BUG.key(tree))
    (tree / "tests/test_red.py").write_text("")  # not among its tests
    assert BUG.key(tree) == keys[-1]
    assert len(set(keys)) == 4


def test_bugs_are_judged_in_a_copy(tree: Path, tmp_path: Path) -> None:
    copy, record = tmp_path / "copy" / "tree", Record(tmp_path / "record.jsonl")
    copy.mkdir(parents=True)
    copy_tree(tree, copy)
    assert not (copy / "ignored.txt").exists()
    check_copy(copy)
    before = (tree / "src/convswap/sums.py").read_text()
    with Runner(copy) as tests:
        killed = judge(BUG, tests)
        assert (killed["outcome"], killed["by"]) == ("killed", "tests/test_sums.py::test_double")
        assert judge(replace(BUG, old="x < 1", new="x < 2"), tests)["outcome"] == "survived"
        with applied(BUG, copy):
            assert "3 * x" in (copy / BUG.file).read_text()
            assert tests.run("tests/test_sums.py", 60)[0] == 1
        with applied(replace(BUG, new="double(x)  # and so on"), copy):
            (copy / BUG.file).write_text("while True:\n    pass\n")
            assert tests.run("tests/test_sums.py", 2)[0] is None, "a bug that loops for ever is ended"
        assert tests.run("tests/test_sums.py", 60)[0] == 0, "the bug is gone after its trial"
        check_right([killed["by"], killed["by"]], tests, record)
        red = judge(replace(BUG, tests=("tests/test_red.py",)), tests)
        with pytest.raises(RuntimeError, match=r"fails without any(.|\n)*tests/test_red\.py::test_red"):
            check_right([red["by"]], tests, record)
    assert (tree / "src/convswap/sums.py").read_text() == before


def test_the_record_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "record.jsonl"
    Record(path).put("a", {"outcome": "killed"})
    Record(path).put("b", {"outcome": "survived"})
    again = Record(path)
    assert again.get("a") == {"key": "a", "outcome": "killed"}
    assert again.get("b") == {"key": "b", "outcome": "survived"}
    assert again.get("c") is None
    assert Record(path, fresh=True).get("a") is None


def row(room: str, outcome: str, equivalent: str | None = None) -> dict[str, Any]:
    return {"room": room, "name": "x", "outcome": outcome, "equivalent": equivalent, "seconds": 1.0}


def test_the_score_leaves_equivalent_ones_out() -> None:
    rows = [
        row("a", "killed"),
        row("a", "timeout"),
        row("a", "survived"),
        row("a", "survived", "the same"),
        row("b", "killed"),
    ]
    assert score(rows[:4]) == {
        "mutants": 4,
        "killed": 1,
        "timeout": 1,
        "survived": 1,
        "equivalent": 1,
        "noticed": 0.6667,
    }
    scores = table(rows)
    assert [scores[name]["noticed"] for name in ("a", "b", "all")] == [0.6667, 1.0, 0.75]


def test_rooms_take_turns() -> None:
    turns = in_turns(MUTANTS)
    assert sorted(turns, key=MUTANTS.index) == MUTANTS
    assert [mutant.room for mutant in turns[: 2 * len(ROOMS)]] == sorted(ROOMS) * 2


def test_rooms_and_names_are_chosen() -> None:
    assert {mutant.room for mutant in chosen(MUTANTS, "train,lab", None)} == {"train", "lab"}
    assert [mutant.title for mutant in chosen(MUTANTS, None, "train/nesterov")] == ["train/nesterov dropped"]
    with pytest.raises(SystemExit, match="no mutants in the room 'kitchen'"):
        chosen(MUTANTS, "kitchen", None)
    with pytest.raises(SystemExit, match="no mutant's name holds 'xyz'"):
        chosen(MUTANTS, None, "xyz")
