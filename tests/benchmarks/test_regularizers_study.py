"""The study of regularisers in small, and the page that its result fills."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.studies import regularizers as study
from benchmarks.studies import regularizers_page as page
from convswap.regularizers import list_regularizers


def test_the_page_says_what_the_registry_says() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.filled(text, page.measured()) == text, f"run {page.COMMAND}"


def test_a_study_runs_resumes_and_fills_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--lab", str(tmp_path), "--data", "digits", "--model", "cifar_resnet8", "--epochs", "1", "--dry"]
    arguments += ["--methods", "cutout:4,cutout,mixup", "--pairs", "1", "--seeds"]
    first = study.main([*arguments, "1"])
    assert first["methods"]["mixup"]["against_none"]["low"] is None
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert len(trained) == 3
    found = study.main([*arguments, "2"])
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    assert found["seeds"] == 2
    assert list(found["methods"]) == ["none", "cutout:length=4", "mixup", "cutout"]
    assert found["options"] == {"cutout:length=4": {"length": 4}, "mixup": {"alpha": 1.0}}
    assert "hides whole images" in capsys.readouterr().out
    row = found["methods"]["mixup"]
    assert len(row["accuracies"]) == 2
    assert row["cost"]["median"] > 0
    mean = sum(row["accuracies"]) * 50 - sum(found["methods"]["none"]["accuracies"]) * 50
    assert row["against_none"]["difference"] == pytest.approx(mean)
    lines = {line.split("`")[1]: line for line in page.table(found).splitlines() if line.startswith("| `")}
    assert list(lines) == list_regularizers()
    assert f"{mean:+.2f} [" in lines["mixup"]
    assert "not measured" in lines["jocor"]
    assert "cannot work there" in lines["cutout"]
