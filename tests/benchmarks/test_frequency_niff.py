"""benchmarks/units/frequency.py, section niff, on tiny shapes: complete figures, and none for what is not equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.units import frequency as frequency_units
from benchmarks.units import frequency_niff


def test_the_section_has_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    found = frequency_units.main(["--sections", "niff", "--quick"])["niff"]
    assert [row["form"] for row in found["rows"]] == ["depthwise", "split"]
    for row in found["rows"]:
        assert row["difference"] <= 1e-9
        for kind, goal in frequency_niff.GOALS.items():
            assert row[kind]["times_as_fast"]["ratio"] > 0
            assert row[kind]["goal"]["times_as_fast"] == goal
    for row in found["crossover"]:
        for kind in frequency_niff.GOALS:
            assert row[kind]["kernel"] in (None, 3, 5)
            assert "3" in row[kind]["depthwise"]
    assert "times as fast" in capsys.readouterr().out


def test_no_figure_where_the_two_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(frequency_niff.Frequency):
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x) * (1 + 1e-6)

    monkeypatch.setattr(frequency_niff, "Frequency", Wrong)
    with pytest.raises(RuntimeError, match="differs from the straightforward form"):
        frequency_units.main(["--sections", "niff", "--quick"])


def test_an_unknown_section_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        frequency_units.main(["--sections", "nif"])
    assert "unknown section 'nif'" in capsys.readouterr().err
