"""From a source file to its tests: `tests/<folder>/test_<module>.py`, or the row of the module in `test_map.json`."""

from __future__ import annotations

import json
from pathlib import Path

import convswap

SOURCE = Path(convswap.__file__).parent
TESTS = Path(__file__).resolve().parent
MAP: dict[str, list[str]] = json.loads((TESTS / "test_map.json").read_text(encoding="utf-8"))

# The contract's tests run over the registry: they are for every unit, and for the bases behind them.
BY_CONTRACT = ("units/contract/", "testing/")
FACES = {"__init__.py", "__main__.py", "_version.py"}


def _modules() -> list[str]:
    files = (file for file in SOURCE.rglob("*.py") if file.name not in FACES)
    return sorted(place for file in files if not (place := file.relative_to(SOURCE).as_posix()).startswith(BY_CONTRACT))


def _mirror(module: str) -> str:
    folder, _, name = module.rpartition("/")
    return f"{folder}/test_{name}" if folder else f"test_{name}"


def test_every_module_leads_to_its_tests() -> None:
    lost = [module for module in _modules() if not (TESTS / _mirror(module)).is_file() and module not in MAP]
    assert not lost, "write tests/<folder>/test_<module>.py, or name the tests in tests/test_map.json"


def test_the_map_is_true() -> None:
    modules = set(_modules())
    assert not set(MAP) - modules, "tests/test_map.json has rows of modules that are gone"
    mirrored = [module for module in MAP if (TESTS / _mirror(module)).is_file()]
    assert not mirrored, "tests/test_map.json has rows of modules that have a test file of their own"
    missing = {module: test for module, tests in MAP.items() for test in tests if not (TESTS / test).is_file()}
    assert not missing, "tests/test_map.json names tests that are gone"
    assert all(MAP.values())
    assert list(MAP) == sorted(MAP), "keep the rows in order"


def test_every_mapped_test_reaches_the_room_it_is_for() -> None:
    """A test stands for a module only if it uses the package, its command line or its reference values."""
    idle = {
        test for tests in MAP.values() for test in tests if "convswap" not in (TESTS / test).read_text(encoding="utf-8")
    }
    assert not idle


def test_test_files_outside_packages_have_names_of_their_own() -> None:
    """pytest imports such a file by its bare name, and refuses a second one of that name."""
    files = [file for file in TESTS.rglob("test_*.py") if not (file.parent / "__init__.py").exists()]
    names = [file.name for file in files]
    assert sorted(names) == sorted(set(names)), "rename one of each pair"
