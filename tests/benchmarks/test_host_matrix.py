"""The matrix of foreign networks: it can tell right from wrong, and its page is the one of its record."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

import convswap
from benchmarks.hosts import examine, page, recipes
from benchmarks.hosts.table import HOSTS, Host
from benchmarks.hosts.values import Draws, call, difference, outputs

ROOT = Path(__file__).parents[2]
SMALL = Host(
    "small",
    "none",
    "import torch",
    "nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))",
    "image(3, 12)",
)


@pytest.fixture(scope="module")
def record() -> dict[str, dict[str, object]]:
    *_, last = examine.examine(SMALL)
    return last


@pytest.mark.parametrize("column", page.COLUMNS)
def test_a_plain_network_is_right_in_every_column(record: dict[str, dict[str, object]], column: str) -> None:
    assert record[column]["state"] == "ok", record[column]


def test_the_columns_are_those_of_the_page() -> None:
    assert tuple(examine.COLUMNS) == page.COLUMNS


def test_a_wrong_fusion_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix trusts no claim: here `plan_fuse` hands out a network that is 0.1 % off and says it is right."""
    case = examine.open_case(SMALL)
    honest = convswap.plan_fuse

    def lying(model: nn.Module, example: torch.Tensor) -> object:
        plan = honest(model, example)
        with torch.no_grad():
            next(plan.fused.parameters()).mul_(1.001)
        return plan

    monkeypatch.setattr(convswap, "plan_fuse", lying)
    assert examine.fuse_cell(case)["state"] == "wrong"


def test_a_wrong_start_and_a_lost_state_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = examine.open_case(SMALL)
    assert examine.swap_cell(case)["state"] == "ok"
    with torch.no_grad():
        case.given[0][0][1].mul_(1.001)
    assert examine.swap_cell(case)["state"] == "wrong"
    with torch.no_grad():
        next(case.swapped["ic"].parameters()).data = torch.zeros(8, 3, 3, 3).double()
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda *args, **kwargs: None)
    assert examine.state_cell(case)["state"] == "wrong"


def test_a_network_that_shows_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="hardly depends"):
        examine.open_case(replace(SMALL, expression="nn.Sequential(nn.Conv2d(3, 2, 1), nn.Hardtanh(9, 10))"))


@dataclass
class Both:
    """An output of a class of its own."""

    map: torch.Tensor
    rest: dict[str, list[float]]


def test_outputs_of_any_form_are_compared() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor, *, gain: float) -> Both:
            return Both(x * gain, {"mean": [float(x.mean())]})

    given = {"x": Draws(0).image(3, 4), "gain": 2.0}
    found = outputs(Net(), given)
    assert [path for path, _ in found] == [".map", ".rest.mean.0"]
    assert difference(found, outputs(Net(), given)) == 0
    assert difference(found, outputs(Net(), given | {"gain": 2.2})) == pytest.approx(0.1)
    assert difference(found, found[:1]) == float("inf")
    assert call(nn.Identity(), (given["x"],)).shape == (2, 3, 4, 4)


def test_names_and_places_of_records_are_unique() -> None:
    assert len({host.name for host in HOSTS}) == len({host.slug for host in HOSTS}) == len(HOSTS)
    assert all(host.draw(0) is not None for host in HOSTS)


def test_the_page_is_the_one_of_the_record() -> None:
    result = json.loads((ROOT / "benchmarks/results/hosts/matrix.json").read_text(encoding="utf-8"))
    assert page.page_text(result) == page.PAGE.read_text(encoding="utf-8")
    wrong = [(row["name"], column) for row in result["rows"] for column in page.COLUMNS if "wrong" in str(row[column])]
    assert not wrong


def test_every_recipe_has_a_page() -> None:
    for name in recipes.PAGES:
        compile(recipes.program(name), name, "exec")
        assert len(recipes.program(name)) > 100
