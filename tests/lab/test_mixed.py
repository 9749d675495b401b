"""Several units as one trial: on the command line, in the id, the table, the report, and after an edit of the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import convswap
from convswap.cli import main
from convswap.cli.options import parse_options, parse_units, parse_where
from convswap.data import load_data
from convswap.errors import UsageError
from convswap.lab import Store, Trial, describe_network
from convswap.lab.build import build_model
from convswap.lab.changes import changed_mixtures
from convswap.lab.mixed import short_id
from convswap.lab.store import STORE_FILE
from convswap.surgery import Mixture
from convswap.surgery.history import history_of

ENTRIES = {"layer1.*": "circle", "layer3.*": ["ic", {"gate": "closed"}]}
QUICK = ["--epochs", "1", "--seeds", "1", "--no-latency", "--no-pictures", "--quiet", "--lab", "lab"]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`plan.json` in the current folder, which is otherwise empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    file = Path("plan.json")
    file.write_text(json.dumps(ENTRIES))
    return file


def trial(**changes: object) -> Trial:
    values = {"model": "cifar_resnet8", "data": "digits", "data_fingerprint": "f" * 64, "recipe": {}, "seed": 0}
    return Trial(**{**values, "unit": "mixed:plan", "unit_options": ENTRIES, **changes})  # type: ignore[arg-type]


def test_the_words_of_the_command_line(plan: Path) -> None:
    units = parse_units("conv,mixed:plan.json,circle")
    assert units == {"conv": {}, "mixed:plan": ENTRIES, "circle": {}}
    assert parse_options(["circle.radius=1.2"], units) == units | {"circle": {"radius": 1.2}}
    assert parse_where(["circle=3x3"], units) == {"conv": None, "mixed:plan": None, "circle": "3x3"}
    with pytest.raises(UsageError, match=r"the options of 'mixed:plan' stand in its file"):
        parse_options(["mixed:plan.radius=1.2"], units)
    for where in ("3x3", "mixed:plan=3x3"):
        with pytest.raises(UsageError, match=r"the places of 'mixed:plan' stand in its file"):
            parse_where([where], units)
    Path("b").mkdir()
    Path("b/plan.json").write_text(plan.read_text())
    with pytest.raises(UsageError, match=r"two plans called 'mixed:plan'"):
        parse_units("mixed:plan.json,mixed:b/plan.json")


def test_the_id_is_name_and_content() -> None:
    assert trial(unit_options=dict(reversed(ENTRIES.items()))).id == trial().id
    ids = {trial().id, trial(unit="mixed:other").id, trial(unit_options=ENTRIES | {"layer1.*": "ghost"}).id}
    assert len(ids) == 3
    assert trial().label() == f"mixed:plan {Mixture.of(ENTRIES).id[:6]}"
    assert Trial.from_json(trial().to_json()) == trial()
    with pytest.raises(UsageError, match=r"where='3x3' is not allowed; the entries of 'mixed:plan'"):
        trial(where="3x3")


def test_the_network_of_a_trial() -> None:
    data = load_data("digits")
    network = describe_network("cifar_resnet8", convswap.create_model("cifar_resnet8", num_classes=10, in_channels=1))
    model, described = build_model(trial(network=network), data)
    assert [record["unit"] for record in history_of(model)] == ["circle", "ic"]
    assert described is not None
    assert described["id"] == Mixture.of(ENTRIES).id
    assert {row["unit"] for row in described["replacements"]} == {"circle", "ic"}


def test_a_comparison_and_an_edit_of_the_file(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", "--units", "mixed:plan.json", *QUICK]
    assert main(command) == 0
    assert "circle where layer1.*; ic (gate='closed') where layer3.*" in " ".join(capsys.readouterr().out.split())
    plan.write_text(json.dumps(dict(reversed(ENTRIES.items())), indent=4))
    assert main([*command[:-3], *command[-2:]]) == 0  # not quiet
    again = capsys.readouterr()
    assert "2 of 2 trials are already finished" in again.err
    assert "has changed" not in again.err
    edited = ENTRIES | {"layer1.*": "ghost"}
    plan.write_text(json.dumps(edited))
    assert main([*command[:-3], *command[-2:]]) == 0
    said = f"mixed:plan has changed: it is {short_id(edited)} now, trained anew beside {short_id(ENTRIES)}"
    assert said in capsys.readouterr().err
    page = Path("lab/report.html").read_text(encoding="utf-8")
    assert all(f"mixed:plan {short_id(entries)}" in page for entries in (ENTRIES, edited))
    assert "<td>ghost</td>" in page, "each replaced place names its unit"
    with Store(Path("lab") / STORE_FILE, write=False) as store:
        assert [row.trial.unit_options for row in store.rows()] == [{}, ENTRIES, edited]
    assert main(["trials", "lab"]) == 0
    assert f"mixed:plan {short_id(edited)}" in capsys.readouterr().out


def test_a_plan_back_in_its_old_form_is_no_change(tmp_path: Path) -> None:
    with Store(tmp_path / STORE_FILE) as store:
        store.add(trial())
        store.add(trial(unit_options={"layer1.*": "ic"}))
    assert changed_mixtures(tmp_path, [trial()]) == []
    assert changed_mixtures(tmp_path, [trial(unit="mixed:new", unit_options={"layer2.*": "ic"})]) == []
    assert len(changed_mixtures(tmp_path, [trial(unit_options={"layer2.*": "ic"})])) == 1
    assert changed_mixtures(tmp_path / "none", [trial()]) == []


def test_a_run_is_trained_fused_and_shown(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = "train --model cifar_resnet8 --data digits --unit mixed:plan.json --epochs 1 --device cpu -q --out run"
    assert main(argv.split()) == 0
    model = convswap.load("run/model.safetensors")
    assert [record["unit"] for record in history_of(model)] == ["circle", "ic"]
    assert main(["fuse", "run"]) == 0
    assert "fused 4 units" in capsys.readouterr().out


def test_plan(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "cifar_resnet8", "mixed:plan.json", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mixture"] == ENTRIES
    assert main(["plan", "cifar_resnet8", "mixed:plan.json"]) == 0
    assert "swap to ic (gate='closed') where layer3.*" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "fragment"),
    [
        ("compare --units mixed:absent.json", "mixed plan 'absent.json': no such file"),
        ("compare --units mixed:", "names no file"),
        ("plan cifar_resnet8 mixed:plan.json --where 3x3", "the places of 'mixed:plan' stand in its file"),
        ("plan cifar_resnet8 mixed:plan.json --option radius=1", "the options of 'mixed:plan' stand in its file"),
        ("plan cifar_resnet8 circle,ic", "name one unit; for several at once write a mixed plan, mixed:FILE.json"),
        ("plan resnet18 mixed:plan.json --where 3x3", "the places of 'mixed:plan' stand in its file"),
        ("train --model cifar_resnet8 --data digits --unit mixed:plan.json --where 3x3", "stand in its file"),
        ("plan all_cnn_c mixed:plan.json", "entry 'layer1.*' (circle) of the mixed plan"),
    ],
)
def test_bad_input_is_one_line(plan: Path, argv: str, fragment: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("convswap: error: ")
    assert error.count("\n") == 1
    assert fragment in error
