"""The registry: names, suggestions, duplicates, frozen rows and units of other packages."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from convswap import get_unit, list_units, register_unit
from convswap.errors import UsageError
from convswap.units import CircleConv2d, PlainConv2d, spec_of
from convswap.units.contract import registry

ROW: dict[str, Any] = {
    "paper": "none",
    "year": 2024,
    "summary": "a test unit",
    "warm_start": "exact",
    "fusion": "conv",
}


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    list_units()  # load first, so that entry points are not lost with the copy
    monkeypatch.setattr(registry, "_UNITS", dict(registry._UNITS))


def test_list_units_takes_wildcards() -> None:
    register_unit("zz_one", **ROW)(PlainConv2d)
    register_unit("zz_two", **ROW)(PlainConv2d)
    assert list_units("zz_*") == ["zz_one", "zz_two"]
    assert list_units("zz_???") == ["zz_one", "zz_two"]
    assert list_units("no such*") == []
    assert list_units() == sorted(list_units("*"))
    assert "conv" in list_units()


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown unit 'conw'; did you mean 'conv'\?"):
        get_unit("conw")
    with pytest.raises(UsageError, match="; known: "):
        get_unit("qqqqqqqq")


def test_duplicate_names_both_origins() -> None:
    class Other(PlainConv2d):
        pass

    with pytest.raises(UsageError) as caught:
        register_unit("conv", **ROW)(Other)
    assert "convswap.units.plain:PlainConv2d" in str(caught.value)
    assert f"{__name__}:test_duplicate_names_both_origins.<locals>.Other" in str(caught.value)
    assert get_unit("conv").cls is PlainConv2d


def test_registering_the_same_class_again_is_no_error() -> None:
    """A reloaded module must not fail."""
    register_unit("conv", **ROW)(PlainConv2d)
    assert get_unit("conv").summary == "a test unit"


def test_row_is_frozen() -> None:
    register_unit("zz", **ROW, variants=({"radius": 1},), no_weight_decay=("radius",))(CircleConv2d)
    spec = get_unit("zz")
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.kind = "feature"  # type: ignore[misc]
    with pytest.raises(TypeError):
        spec.variants[0]["radius"] = 2  # type: ignore[index]
    assert spec.no_weight_decay == frozenset({"radius"})
    assert spec.origin == "convswap.units.circle.circle:CircleConv2d"


def test_spec_of_a_module_is_by_exact_class() -> None:
    class Child(PlainConv2d):
        pass

    spec = spec_of(PlainConv2d(1, 1, 1))
    assert spec is not None
    assert spec.name == "conv"
    assert spec_of(Child(1, 1, 1)) is None
    assert spec_of(nn.Conv2d(1, 1, 1)) is None


UNIT_MODULE = """
from convswap.units import WeightUnit, list_units, register_unit

list_units()  # asking the registry while it loads must not loop


@register_unit({name!r}, paper="none", year=2024, summary="theirs", warm_start="exact", fusion="conv")
class TheirConv2d(WeightUnit):
    def effective_weight(self):
        return self.weight
"""


def _distribution(folder: Path, name: str, source: str) -> None:
    """A minimal installed package `NAME` whose module of that name declares a unit."""
    (folder / f"{name}.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[convswap.units]\n{name}_unit = {name}\n")


def _python(folder: Path, code: str) -> str:
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_units_of_other_packages_load_when_asked_for(tmp_path: Path) -> None:
    _distribution(tmp_path, "their_package", UNIT_MODULE.format(name="theirs"))
    code = """
import sys, convswap
assert "their_package" not in sys.modules, "loaded by import convswap"
assert "theirs" in convswap.list_units()
spec = convswap.get_unit("theirs")
assert spec.origin == "their_package:TheirConv2d"
print(spec.cls(2, 3, 3))
"""
    assert "TheirConv2d(2, 3, kernel_size=(3, 3)" in _python(tmp_path, code)


def test_a_broken_entry_point_is_an_error_naming_it_every_time(tmp_path: Path) -> None:
    _distribution(tmp_path, "broken_package", "import a_module_nobody_has\n")
    code = """
import convswap
from convswap.errors import UsageError
for ask in (convswap.list_units, lambda: convswap.get_unit("conv")):
    try:
        ask()
    except UsageError as error:
        print(error)
"""
    lines = _python(tmp_path, code).splitlines()
    assert len(lines) == 2, "the second call forgot that a package is broken"
    for line in lines:
        assert "entry point 'broken_package_unit' (broken_package) of broken_package failed to load" in line
        assert "a_module_nobody_has" in line


def test_two_packages_with_one_name_are_an_error_naming_both(tmp_path: Path) -> None:
    _distribution(tmp_path, "first_package", UNIT_MODULE.format(name="same"))
    _distribution(tmp_path, "second_package", UNIT_MODULE.format(name="same"))
    code = """
import convswap
try:
    convswap.list_units()
except convswap.errors.UsageError as error:
    print(error)
"""
    message = _python(tmp_path, code)
    assert "first_package:TheirConv2d" in message
    assert "second_package:TheirConv2d" in message
