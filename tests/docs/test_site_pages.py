"""Pages and links of the site: every page is found, every link leads somewhere, every public name is described."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from convswap_site import pages
from convswap_site.docstrings import process, to_rest
from convswap_site.links import relink

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
MOVED = pages.moved_pages(REPOSITORY)
SOURCES = [*MOVED, *(p for p in DOCS.rglob("*.md") if p not in MOVED.values() and "_ext" not in p.parts)]


@pytest.mark.parametrize("page", SOURCES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_to_a_file_from_the_new_place(page: Path) -> None:
    place = MOVED.get(page, page)
    text = relink(page.read_text(encoding="utf-8"), page, place, MOVED)
    there = {REPOSITORY / file for file in MOVED.values()}
    for target in re.findall(r"\]\(([^()\s]+)\)", re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)):
        if re.match(r"[a-z]+:|#", target):
            continue
        file = Path(*place.parent.parts, target.partition("#")[0]).resolve()
        assert file.is_file() or file in there, target
        assert file not in MOVED, f"{target} leads to the page's old place"


def test_links_are_turned_and_code_is_not(tmp_path: Path) -> None:
    for name in ("README.md", "docs/a.md", "docs/b.md", "src/x.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    moved = {tmp_path / "README.md": tmp_path / "docs/index.md"}

    def turned(text: str, source: str) -> str:
        file = tmp_path / source
        return relink(text, file, moved.get(file, file), moved)

    assert turned("[a](docs/a.md#part) [x](src/x.py)", "README.md") == "[a](a.md#part) [x](../src/x.py)"
    assert turned("[home](../README.md), [b](b.md)", "docs/a.md") == "[home](index.md), [b](b.md)"
    assert turned("[`a` b](docs/a.md), ![p](src/x.py)", "README.md") == "[`a` b](a.md), ![p](../src/x.py)"
    assert turned("see [the sources](src)", "README.md") == "see the sources"
    for text in ("`[a](nowhere.md)`", "```\n[a](nowhere.md)\n```", "[a](https://b.c/d)", "[a](#part)", "[a][b] (c)"):
        assert turned(text, "README.md") == text
    with pytest.raises(FileNotFoundError, match=r"README\.md: the link \(docs/c\.md\) leads to nothing"):
        turned("[c](docs/c.md)", "README.md")


def test_every_page_stands_in_one_table_of_contents() -> None:
    entries = [entry for listed in pages.sections(DOCS).values() for entry in listed]
    written = [p for p in SOURCES if p not in MOVED]
    assert sorted(entries) == sorted(p.relative_to(DOCS).with_suffix("").as_posix() for p in written)


def test_every_public_name_is_described_once() -> None:
    described: dict[int, str] = {}
    text = "\n".join(pages.room_page(room, described) for room in pages.public_rooms())
    targets = re.findall(r"^\.\. auto(?:class|function|data):: (\S+)$", text, re.MULTILINE)
    assert len(targets) == len(set(targets))
    for room in pages.public_rooms():
        for name in room.__all__:
            value = getattr(room, name)
            home = described.get(id(value), f"{room.__name__}.{name}")
            assert home in targets
            assert f"   ~{home}\n" in text


def test_generated_pages_come_and_go(tmp_path: Path) -> None:
    (tmp_path / "kept.md").write_text("kept")
    written = {tmp_path / "api" / "room.rst": "text", tmp_path / "index.md": "front"}
    pages.write(written)
    assert {path: path.read_text() for path in written} == written
    pages.remove(written)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.md"]


@pytest.mark.parametrize(
    ("written", "rest"),
    [
        ("a `b` c", "a ``b`` c"),
        ("two `a`s and `b`.", "two ``a``\\ s and ``b``."),
        ("kept ``a`` b", "kept ``a`` b"),
        ("|w| and a || b", "\\|w\\| and a || b"),
        ("takes *args and **options", "takes \\*args and \\*\\*options"),
        ("an *emphasis* and **two words** stay", "an *emphasis* and **two words** stay"),
        ("`f(*a, |b|)` is code", "``f(*a, |b|)`` is code"),
        ("call constrain_() or x_", "call constrain\\_() or x\\_"),
        (">>> `x` | y", ">>> `x` | y"),
        ("a `span\nover lines` here", "a ``span\nover lines`` here"),
    ],
)
def test_docstrings_become_restructured_text(written: str, rest: str) -> None:
    assert to_rest(written.split("\n")) == rest.split("\n")


def test_a_constant_is_not_described_by_the_words_of_its_type() -> None:
    inherited, own = str(dict.__doc__).split("\n"), ["The `rules` by name."]
    process(None, "data", "RULES", {}, None, inherited)
    process(None, "data", "RULES", {}, None, own)
    assert (inherited, own) == ([], ["The ``rules`` by name."])
