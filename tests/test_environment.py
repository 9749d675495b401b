"""docs/environment.md lists the environment variables that are read, and no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
OURS = re.compile(r"CONVSWAP_[A-Z_]+")
# Handed to programs that do not belong to convswap, or read by the machinery of the tests and benchmarks themselves.
FOREIGN = {"CI", "CXX", "OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "WORLD_SIZE"}


def _sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))
    yield ROOT / "hatch_build.py"


def _named(file: Path) -> set[str]:
    """Our variables that a file names as a whole string: prose and messages hold more than the name."""
    strings = (n.value for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.Constant))
    return {text for text in strings if isinstance(text, str) and OURS.fullmatch(text)}


def _read_by_cpp() -> set[str]:
    texts = (file.read_text(encoding="utf-8") for file in (ROOT / "src").rglob("*.cpp"))
    return {name for text in texts for name in re.findall(r'getenv\("(\w+)"\)', text)}


def _of_others() -> set[str]:
    """Variables that the package reads from `os.environ` under another name."""
    found = set()
    for file in sorted((ROOT / "src").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        found |= set(re.findall(r'os\.environ(?:\.get\(|\[)"(\w+)"', text))
        found |= set(re.findall(r'"(\w+)" (?:not )?in os\.environ', text))
    return {name for name in found if not OURS.fullmatch(name)}


def test_the_page_lists_every_variable_and_no_other() -> None:
    read = set().union(*map(_named, _sources("src", "tests"))) | _read_by_cpp()
    assert "CONVSWAP_DATA" in read
    assert set(OURS.findall(PAGE)) == read


def test_variables_of_others_are_listed_too() -> None:
    assert _of_others() == FOREIGN
    assert all(f"`{name}`" in PAGE for name in FOREIGN)
