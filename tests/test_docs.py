"""The pages under docs: their examples run, their links lead somewhere, and the cards say what the registry says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch

from benchmarks.hosts import recipes
from convswap import list_units
from convswap.units import UnitSpec, get_unit

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "docs/units"
HOSTS = ROOT / "docs/hosts"
# What the recipe of a host's page imports. These distributions are called like their modules.
NEEDED = {page: [name.replace("-", "_") for name in names] for page, names in recipes.PAGES.items()}
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent != CARDS)
PARTS = ["Options", "Example", "Start and fusing", "Known, inferred, ours", "Published numbers"]
EXTRA_PARTS = ["Measured here", "Networks"]
UNITS: dict[str, UnitSpec] = {
    name: spec for name in list_units() if (spec := get_unit(name)).origin.startswith("convswap.")
}


def family(spec: UnitSpec) -> str:
    """The room of a unit under convswap.units, which is also the name of its page."""
    return spec.cls.__module__.split(".")[2]


def card(name: str) -> str:
    """The text of a unit's card."""
    page = (CARDS / f"{family(UNITS[name])}.md").read_text(encoding="utf-8")
    found = re.findall(rf"^## {name}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    assert len(found) == 1, f"docs/units/{family(UNITS[name])}.md has {len(found)} cards `## {name}`"
    return found[0]


def part(name: str, title: str) -> str:
    """One part of a card."""
    return re.split(r"^### ", card(name), flags=re.MULTILINE)[1 + PARTS.index(title)]


def blocks(text: str) -> list[str]:
    """The python blocks of a page or a card."""
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", UNITS)
def test_a_card_has_its_parts_in_the_fixed_order(name: str) -> None:
    opening, *parts = re.split(r"^### ", card(name), flags=re.MULTILINE)
    titles = [text.partition("\n")[0] for text in parts]
    assert titles[: len(PARTS)] == PARTS
    assert titles[len(PARTS) :] == [title for title in EXTRA_PARTS if title in titles]
    assert opening.strip().startswith(f"`{name}` ")
    placement = "**Placement of the paper" if UNITS[name].placement == "paper" else "**Placement inferred"
    assert name == "conv" or placement in " ".join(opening.split())


@pytest.mark.parametrize("name", UNITS)
def test_the_example_of_a_card_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks(card(name))
    assert len([line for line in example.splitlines() if line.strip()]) <= 8
    assert "assert" in example
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(compile(example, f"card of {name}", "exec"), {})


@pytest.mark.parametrize("name", UNITS)
def test_a_card_names_every_option_with_its_default(name: str) -> None:
    """A part without a table may point to the card that has it."""
    text = part(name, "Options")
    options = {
        key: parameter.default
        for key, parameter in inspect.signature(UNITS[name].cls).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and key not in ("device", "dtype")
    }
    others = [other for other in re.findall(r"\]\(#(\w+)\)", text) if other in UNITS]
    stated = dict(found for other in others for found in rows(part(other, "Options"))) | dict(rows(text))
    for key, default in options.items():
        assert key in stated, f"the card of {name} has no row for the option {key}"
        own = key in dict(rows(text)) or not others
        assert not own or says(stated[key], default), f"{key}={default!r} of {name}, but its card says {stated[key]!r}"


def rows(text: str) -> list[tuple[str, str]]:
    """(option, default as printed) of the first table of a part. A row may name two options that share a default."""
    found = []
    table = re.search(r"^\| option .*?(?=\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
    for line in table[0].splitlines()[2:] if table else []:
        first, default = (cell.strip() for cell in line.split(" | ")[:2])
        names = re.findall(r"`(\w+)`", first)
        each = default.split(", ") if len(names) > 1 and ", " in default else [default] * len(names)
        found += zip(names, each, strict=True)
    return found


def says(printed: str, default: object) -> bool:
    """Is this the default, as a card prints one: `text`, 1, or 0, 0.5?"""
    if isinstance(default, tuple):
        return printed == ", ".join(f"{value:g}" for value in default)
    if isinstance(default, int | float) and not isinstance(default, bool):
        return printed == f"{default:g}"
    return printed == f"`{default}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page share their names: a later one may use what an earlier one made."""
    for package in NEEDED.get(page.stem, ()) if page.parent == HOSTS else ():
        pytest.importorskip(package, reason=f"{package} is not installed; benchmarks/hosts/recipes.py ran this page")
    names: dict[str, object] = {"__name__": "__main__"}  # timm looks for the module of what a page registers
    monkeypatch.chdir(tmp_path)
    for number, example in enumerate(blocks(page.read_text(encoding="utf-8")), 1):
        torch.manual_seed(0)
        exec(compile(example, f"{page.name}, example {number}", "exec"), names)


def test_the_index_of_cards_says_what_the_registry_says() -> None:
    found = re.findall(r"^\| \[.*", (CARDS / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    expected = [
        f"| [`{name}`]({family(spec)}.md#{name}) | {family(spec)} | {spec.summary} "
        f"| {spec.kind} | {spec.warm_start} | {spec.fusion} |"
        for name, spec in UNITS.items()
    ]
    assert sorted(found) == sorted(expected)


def test_the_index_of_pages_names_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    linked = re.findall(r"^\| \[.*?\]\((.*?)\)", index, re.MULTILINE)
    pages = [path.name for path in PAGES if path.parent == ROOT / "docs" and path.name != "README.md"]
    assert sorted(linked) == sorted([*pages, "hosts/README.md", "units/README.md"])


def test_the_index_of_hosts_names_every_page() -> None:
    linked = re.findall(r"^\| \[.*?\]\((.*?)\)", (HOSTS / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(linked) == sorted(page.name for page in HOSTS.glob("*.md") if page.name != "README.md")
    assert set(NEEDED) <= {page.stem for page in HOSTS.glob("*.md")}


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks/README.md"]:
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", prose(page)):
            found = page.parent / target if target else page
            assert found.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors(found), f"{page.name} links to {target}#{anchor}"


def prose(page: Path) -> str:
    """A page without its code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`]*`", "code", text)


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings make."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *sorted(CARDS.glob("*.md"))], ids=lambda page: page.stem)
def test_a_page_says_first_what_it_is_for(page: Path) -> None:
    title, _, rest = page.read_text(encoding="utf-8").partition("\n\n")
    assert title.startswith("# ")
    assert rest.startswith(("This page ", "These pages ")), f"{page.name} begins with {rest[:60]!r}"
