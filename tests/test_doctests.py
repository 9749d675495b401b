"""The examples in the docstrings compute what they print."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from importlib.util import find_spec

import pytest

import convswap


def _can_be_imported(name: str) -> bool:
    """A module of `convswap.hosts` is called like the package it needs, which the user brings."""
    room, _, package = name.rpartition(".")
    return package != "__main__" and (room != "convswap.hosts" or find_spec(package) is not None)


FOUND = [m.name for m in pkgutil.walk_packages(convswap.__path__, "convswap.")]
MODULES = [name for name in FOUND if _can_be_imported(name)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_there_are_examples() -> None:
    found = [t for name in MODULES for t in doctest.DocTestFinder().find(importlib.import_module(name)) if t.examples]
    assert len(found) >= 10
