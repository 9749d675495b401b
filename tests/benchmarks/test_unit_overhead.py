"""benchmarks/units/overhead.py on tiny shapes: every registered unit is covered, and no figure stands unchecked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import convswap
from benchmarks.peers import straightforward
from benchmarks.units import layers as overhead_layers
from benchmarks.units import overhead as unit_overhead

UNITS = [name for name in convswap.list_units() if name != "conv"]
KINDS = ("training", "inference", "fused")


def run(unit: str) -> list[dict[str, Any]]:
    tables = unit_overhead.main(["--quick", "--units", unit, "--precision", "fp32", "--device", "cpu"])
    return [row for rows in tables.values() for row in rows]


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_is_measured_beside_its_peer(unit: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run(unit)
    assert rows
    for row in rows:
        assert "refused" not in row
        assert row["red"] == []
        assert row["differences"]["straightforward"] <= 1e-9
        for kind in KINDS:
            assert row[kind]["to_plain"]["ratio"] > 0
            assert row[kind]["to_straightforward"]["ratio"] > 0
            assert row[kind]["to_again"]["q3"] > 0
        assert row["training"]["memory"]["to_plain"] > 0
    assert f"{unit} " in capsys.readouterr().out


@pytest.mark.parametrize(("unit", "label"), [("ghost", "timm GhostModule"), ("sk", "timm SelectiveKernel")])
def test_the_same_block_of_timm_is_compared(unit: str, label: str) -> None:
    (row, *_) = run(unit)
    assert row["library"].startswith(label)
    assert row["differences"]["library"] <= 1e-9
    assert all("to_library" in row[kind] for kind in KINDS)


@pytest.mark.parametrize("case", [*overhead_layers.LAYERS, *overhead_layers.BLOCKS, *overhead_layers.STAGES], ids=str)
def test_the_places_are_what_their_shapes_say(case: overhead_layers.Case) -> None:
    x = torch.zeros(1, case.shape.in_channels, case.size, case.size)
    with torch.no_grad():
        assert case.reference().eval()(x).shape[1] == case.shape.out_channels


class Wrong(nn.Module):
    def __init__(self, unit: nn.Module) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.unit(x) + 1e-6


def test_a_peer_that_is_not_equal_gets_no_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(straightforward._CLASSES, "circle", Wrong)
    rows = run("circle")
    assert all(row["red"] == ["straightforward"] for row in rows)
    assert all("to_straightforward" not in row[kind] for row in rows for kind in KINDS)
    printed = capsys.readouterr().out
    assert "NOT EQUAL to straightforward" in printed
    assert "of straightforward" not in printed


def test_a_fused_form_that_is_not_equal_gets_no_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(convswap.get_unit("circle").cls, "fuse", lambda unit: Wrong(unit))
    rows = run("circle")
    assert all("fused" in row["red"] and "fused" not in row for row in rows)
    assert "no figure: the fused form is not equal" in capsys.readouterr().out


def test_what_a_table_cannot_hold_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convswap.get_unit("circle").cls, "supports", classmethod(lambda cls, conv: "too round"))
    (row,) = run("circle")
    assert row["unit"] == "circle"
    assert all(reason.endswith("too round") for reason in row["refused"])
    assert "too round" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--tables", "layer"], "unknown layer"), (["--tables", "networks", "--quick"], "--quick is for")],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        unit_overhead.main(arguments)
    assert message in capsys.readouterr().err
