"""The cards of the site say of every unit what its registry row, constructor and records say."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path
from statistics import fmean

import pytest
from convswap_site import cards, gallery, kernels, records
from PIL import Image

from convswap.units import get_unit, list_units

REPOSITORY = Path(__file__).parents[2]
UNITS = REPOSITORY / "docs" / "units"
RESULTS = REPOSITORY / "benchmarks" / "results"
CARDS = cards.find_cards(UNITS)


@pytest.mark.parametrize("name", list_units())
def test_every_unit_has_a_card_with_all_its_parts(name: str) -> None:
    page = CARDS[name].read_text(encoding="utf-8")
    names = list(cards.split_cards(page)[1])
    pictures = {unit: [(f"{unit}.svg", f"what {unit} shows")] for unit in names}
    text = cards.split_cards(cards.enriched(page, pictures, {name: "seen: 42"}))[1][name]
    spec = get_unit(name)
    for part in cards.split_cards(page)[1][name].split("\n### "):
        assert part.rstrip() in text, "the card itself, unchanged"
    assert f"{name}.svg" in text
    assert f"what {name} shows" in text
    assert "seen: 42" in text
    assert cards.constructor(spec) in text
    assert f"`{spec.default_where}`" in text
    assert ("inferred: the paper does not say" in text) == (spec.placement == "inferred")
    assert f"convswap.units.{spec.cls.__name__}" in text


@pytest.mark.parametrize("name", list_units())
def test_a_constructor_is_shown_with_all_options_and_defaults(name: str) -> None:
    cls = get_unit(name).cls
    call = ast.parse(f"def {cards.constructor(get_unit(name))}: pass").body[0]
    assert isinstance(call, ast.FunctionDef)
    assert call.name == cls.__name__
    shown = [a.arg for a in (*call.args.args, *call.args.kwonlyargs)]
    parameters = inspect.signature(cls).parameters
    assert shown == [key for key in parameters if key not in ("device", "dtype")]
    for argument, default in zip(call.args.kwonlyargs, call.args.kw_defaults, strict=True):
        assert default is not None
        assert ast.literal_eval(default) == parameters[argument.arg].default


@pytest.mark.parametrize("name", list_units())
def test_kernels_are_shown_of_every_weight_unit(name: str) -> None:
    found = kernels.kernel_picture(get_unit(name))
    assert found is not None or get_unit(name).kind != "weight"
    if found is not None:
        content, alt = found
        assert content.startswith(b"\x89PNG")
        assert name in alt


def test_the_gallery_draws_the_same_again(tmp_path: Path) -> None:
    names = ["circle", "fixed", "ghost"]
    drawn = gallery.draw_gallery(tmp_path, names)
    assert list(drawn) == names
    content = {path: path.read_bytes() for found in drawn.values() for path, _ in found}
    assert sorted(tmp_path.iterdir()) == sorted(content)
    for path in content:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 2, "an empty picture"
    gallery.draw_gallery(tmp_path, names)
    assert {path: path.read_bytes() for path in content} == content


def test_a_missing_card_and_a_second_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "all.md").write_text("".join(f"## {name}\n" for name in list_units() if name != "ic"))
    with pytest.raises(LookupError, match=r"no card .* for: ic$"):
        cards.find_cards(tmp_path)
    (tmp_path / "more.md").write_text("## ic\n\n## conv\n")
    with pytest.raises(LookupError, match=r"'conv' has two cards: in all\.md and more\.md"):
        cards.find_cards(tmp_path)


def test_headings_of_no_unit_and_code_end_no_card() -> None:
    page = "# Family\n\n## ic\nfirst\n\n## other heading\n\n```\n## circle\n```\n\n## conv\nlast\n"
    before, found = cards.split_cards(page)
    assert before == "# Family\n\n"
    assert found == {"ic": "first\n\n## other heading\n\n```\n## circle\n```", "conv": "last"}


def test_measured_rows_are_those_of_the_records() -> None:
    found = records.measured(RESULTS, list_units(), UNITS / "README.md")
    record = json.loads((RESULTS / "units" / "unit_overhead_layers.json").read_text())["results"]
    for row in [*record["layers"], *record["blocks"]]:
        line = next(line for line in found[row["unit"]].splitlines() if row["place"] in line)
        assert f"{row['training']['to_plain']['ratio']:.2f}x" in line
        assert f"{row['inference']['to_plain']['ratio']:.2f}x" in line
    trials = (RESULTS / "comparisons" / "compare_cifar10" / "trials").glob("*/trial.json")
    runs = [t for t in trials if json.loads(t.read_text())["unit"] == "circle"]
    mean = fmean(json.loads(t.with_name("result.json").read_text())["test_accuracy"] for t in runs)
    line = next(line for line in found["circle"].splitlines() if "cifar10 " in line)
    assert f"| {len(runs)} | {mean:.2%}" in line
    assert "frequency_units.json" in found["niff"]


def test_every_source_named_beside_a_measurement_is_there() -> None:
    found = records.measured(RESULTS, list_units(), UNITS / "README.md")
    links = {path for text in found.values() for path in re.findall(r"\]\((.+?)\)", text)}
    assert len(links) > 5
    assert all((UNITS / link).is_file() for link in links)


def test_a_table_keeps_bars_within_cells() -> None:
    assert cards.table([["a", "b"], ["x|y", 1]], "lr") == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"


def test_arxiv_numbers_become_links() -> None:
    assert cards.linked("arXiv:2107.02451 (2021)") == "[arXiv:2107.02451](https://arxiv.org/abs/2107.02451) (2021)"
    assert cards.linked("a book") == "a book"
