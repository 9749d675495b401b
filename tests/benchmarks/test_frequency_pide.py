"""`frequency_pide.py` and `propagation.py` in small: they run, and refuse what is not correct."""

from __future__ import annotations

import argparse

import pytest
from torch import nn

from benchmarks.studies import propagation
from benchmarks.units import frequency_pide


def test_both_forms_are_measured_at_every_size() -> None:
    found = frequency_pide.run(argparse.Namespace(quick=True))
    assert [row["side"] for row in found["rows"]] == list(frequency_pide.QUICK_SIDES)
    for row in found["rows"]:
        assert row["difference"] <= frequency_pide.TOLERANCE
        assert all(
            row[kind][f"{form}_ms"] > 0 for kind in ("inference", "training") for form in ("factorised", "dense")
        )
    memory = found["exponents"]["inference"]
    assert memory["factorised"]["memory"]["upper_half"] == pytest.approx(1, abs=0.15)


class Wrong(nn.Module):
    def __init__(self, unit: nn.Module) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, x):
        return 1.001 * self.unit(x)


def test_no_figure_for_forms_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frequency_pide, "straightforward", lambda name, unit: Wrong(unit))
    with pytest.raises(RuntimeError, match="8 px: factorised and dense differ"):
        frequency_pide.run(argparse.Namespace(quick=True))


def test_growth_of_every_kind_of_block() -> None:
    found = propagation.main(["--data", "digits", "--images", "2", "--depth", "4", "--seeds", "1", "--dry"])
    assert len(found["rows"]) == len(propagation.BLOCKS) * 2 * len(propagation.STEPS)
    by_step = {
        row["step"]: row["depths"]["4"]["norm"]
        for row in found["rows"]
        if (row["block"], row["norm"]) == ("hamiltonian", "batch statistics")
    }
    assert abs(by_step[0.03] - 1) < 0.1 < abs(by_step[1.0] - 1)
