"""The examples in the docstrings compute what they print."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import convswap

MODULES = [m.name for m in pkgutil.walk_packages(convswap.__path__, "convswap.") if not m.name.endswith("__main__")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_there_are_examples() -> None:
    found = [t for name in MODULES for t in doctest.DocTestFinder().find(importlib.import_module(name)) if t.examples]
    assert len(found) >= 10
