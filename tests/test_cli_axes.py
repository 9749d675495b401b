"""`convswap compare --vary`: what is compared, and what is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from convswap.cli import main
from convswap.cli.axes import chosen_axis
from convswap.errors import UsageError
from convswap.lab import Store
from convswap.lab.axis import read_axes
from convswap.lab.store import STORE_FILE
from convswap.regularizers import split_list
from convswap.train import Recipe, regularized


def recipe(name: str = "auto", learning_rate: float | None = None, regularize: str = "none") -> Recipe:
    made = Recipe(learning_rate=learning_rate or 0.2, epochs=3 if name == "auto" else 7)
    return regularized(made, split_list(regularize))


def test_the_units_need_no_axis() -> None:
    assert chosen_axis("unit", {"recipe": None, "learning_rate": None}, recipe) is None


def test_values_are_variants_in_order() -> None:
    axis = chosen_axis("learning_rate", {"recipe": None, "learning_rate": "0.4, 0.1,0.4"}, recipe)
    assert axis is not None
    assert {name: values["learning_rate"] for name, values in axis.recipes.items()} == {"0.4": 0.4, "0.1": 0.1}
    axis = chosen_axis("recipe", {"recipe": "auto,long", "learning_rate": None}, recipe)
    assert axis is not None
    assert {name: values["epochs"] for name, values in axis.recipes.items()} == {"auto": 3, "long": 7}


def test_regularisers_are_variants_and_a_plus_joins_two() -> None:
    axis = chosen_axis("regularize", {"regularize": "none,cutout,cutout+mixup"}, recipe)
    assert axis is not None
    methods = {name: [text.partition(":")[0] for text in r.get("regularize", ())] for name, r in axis.recipes.items()}
    assert methods == {"none": [], "cutout": ["cutout"], "cutout+mixup": ["cutout", "mixup"]}


@pytest.mark.parametrize(
    ("vary", "values", "message"),
    [
        ("model", {}, "--vary='model' is not allowed; choose one of 'unit', 'recipe', 'regularize', 'learning_rate'"),
        ("unit", {"recipe": "auto,long"}, "--recipes 'auto,long' goes with --vary recipe"),
        (
            "recipe",
            {"recipe": "auto,long", "learning_rate": "1"},
            "--learning-rates '1' goes with --vary learning_rate",
        ),
        ("recipe", {}, "--recipes was not given; --vary recipe needs the baseline and others"),
        ("recipe", {"recipe": "auto"}, "'auto' has fewer than two values"),
        ("recipe", {"recipe": "a,b"}, "recipe 'a' and 'b' are the same recipe"),
        ("regularize", {"regularize": "none,cutuot"}, "did you mean 'cutout'"),
        ("regularize", {"regularize": "none"}, "--vary regularize needs the baseline and others"),
        ("learning_rate", {"learning_rate": "0.1,fast"}, "--learning-rates: 'fast' is not a number"),
        ("learning_rate", {"learning_rate": "0.1,-1"}, "learning_rate=-1.0 is not allowed"),
    ],
)
def test_bad_values_are_refused_in_a_line(vary: str, values: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        chosen_axis(vary, {"recipe": None, "learning_rate": None} | values, recipe)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_learning_rates_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    lab = tmp_path / "lab"
    command = ["compare", "--vary", "learning_rate", "--learning-rates", "0.2,0.02", "--seeds", "1", "--epochs", "1"]
    code = main([*command, "--lab", str(lab), "--no-latency", "--no-pictures"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "trial 2/2 conv 0.02 seed 0" in printed.err
    assert "vs 0.2" in printed.out
    assert "learning rate" in printed.out
    assert "Not tested, for want of 3 finished seeds on both sides: 0.02." in printed.out
    with Store(lab / STORE_FILE, write=False) as store:
        trained = [(row.trial.unit, row.trial.recipe["learning_rate"]) for row in store.rows()]
    assert trained == [("conv", 0.2), ("conv", 0.02)]
    (axis,) = read_axes(lab)
    assert list(axis.recipes) == ["0.2", "0.02"]
    page = (lab / "report.html").read_text(encoding="utf-8")
    assert "against 0.2, points" in page
    assert '<th scope="col">learning rate</th>' in page


def test_a_bad_margin_is_refused_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("compare", "report"):
        assert main([verb, "--margin", "0"]) == 2
        assert "--margin 0.0 is not allowed; give points of accuracy above 0, such as 0.5" in capsys.readouterr().err
