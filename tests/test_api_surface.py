"""Public names are a promise: one that disappears fails here.

`tests/api_surface.json` lists `__all__` of `convswap` and of each public room. After adding names, or removing some
on purpose (say so in the changelog), write it anew: `python tests/test_api_surface.py --update`.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from pathlib import Path

import pytest

import convswap

SURFACE = Path(__file__).with_name("api_surface.json")
UPDATE = f"python tests/{Path(__file__).name} --update"


def public_names() -> dict[str, list[str]]:
    """`__all__` by module: convswap and every public package or module right under it that declares one."""
    rooms = ["convswap"]
    for info in pkgutil.iter_modules(convswap.__path__):
        if not info.name.startswith("_"):
            rooms.append(f"convswap.{info.name}")
    names = {room: getattr(importlib.import_module(room), "__all__", None) for room in sorted(rooms)}
    return {room: sorted(listed) for room, listed in names.items() if listed is not None}


@pytest.fixture(scope="module")
def current() -> dict[str, list[str]]:
    return public_names()


def test_no_public_name_disappeared(current: dict[str, list[str]]) -> None:
    promised = json.loads(SURFACE.read_text(encoding="utf-8"))
    gone = [f"{room}.{name}" for room, names in promised.items() for name in set(names) - set(current.get(room, ()))]
    assert not gone, (
        f"public names removed: {', '.join(sorted(gone))}. If that is meant, note it in the changelog "
        f"and run `{UPDATE}`"
    )


def test_every_public_name_exists(current: dict[str, list[str]]) -> None:
    for room, names in current.items():
        module = importlib.import_module(room)
        missing = [name for name in names if not hasattr(module, name)]
        assert not missing, f"{room}.__all__ names what is not there: {missing}"
        assert len(set(names)) == len(names), f"{room}.__all__ repeats a name"


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        raise SystemExit(f"usage: {UPDATE}")
    SURFACE.write_text(json.dumps(public_names(), indent=2) + "\n", encoding="utf-8")
    print(f"wrote {SURFACE}")
