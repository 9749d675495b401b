"""The checks of options: what they accept, and that a refusal names option, value and what is allowed."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convswap
from convswap.errors import UsageError, check_choice, check_number, check_whole, is_number, is_whole, unknown_name

ROOT = Path(convswap.__file__).parent
NOT_WHOLE = [True, False, 1.0, math.nan, "1", None, [1], 1j]
NOT_NUMBERS = [True, False, math.nan, math.inf, -math.inf, "1", None, [1.0], 1j]


@pytest.mark.parametrize("value", NOT_WHOLE, ids=repr)
def test_only_whole_numbers_are_whole(value: object) -> None:
    assert not is_whole(value)
    with pytest.raises(UsageError) as caught:
        check_whole("radius", value, None)
    assert str(caught.value) == f"radius={value!r} is not allowed; give a whole number"


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=repr)
def test_only_finite_numbers_are_numbers(value: object) -> None:
    assert not is_number(value)
    with pytest.raises(UsageError) as caught:
        check_number("rate", value, lambda _: True, "a number")
    assert str(caught.value) == f"rate={value!r} is not allowed; give a number"


@settings(deadline=None)
@given(st.integers(), st.none() | st.integers(), st.none() | st.integers(), st.booleans())
def test_bounds_and_parity_are_kept(value: int, least: int | None, most: int | None, odd: bool) -> None:
    fine = (least is None or value >= least) and (most is None or value <= most) and (not odd or value % 2 == 1)
    if fine:
        assert check_whole("radius", value, least, most, odd=odd) == value
    else:
        with pytest.raises(UsageError, match="radius"):
            check_whole("radius", value, least, most, odd=odd)


@pytest.mark.parametrize(
    ("bounds", "options", "wanted"),
    [
        ((), {}, "a whole number of at least 1"),
        ((3,), {}, "a whole number of at least 3"),
        ((1, 8), {}, "a whole number from 1 to 8"),
        ((3,), {"odd": True}, "an odd whole number of at least 3"),
        ((0,), {"hint": ", or None"}, "a whole number of at least 0, or None"),
    ],
)
def test_a_refusal_says_what_is_allowed(bounds: tuple[int, ...], options: dict[str, object], wanted: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_whole("radius", -2, *bounds, **options)  # type: ignore[arg-type]
    assert str(caught.value) == f"radius=-2 is not allowed; give {wanted}"


def test_numbers_come_back_as_given() -> None:
    assert check_number("rate", 10**400, lambda n: n > 0, "a positive number") == 10**400
    assert check_number("rate", 0.5, lambda n: n > 0, "a positive number") == 0.5
    with pytest.raises(UsageError, match=r"rate=-0\.5 is not allowed; give a positive number"):
        check_number("rate", -0.5, lambda n: n > 0, "a positive number")


def test_choices_and_names_are_listed() -> None:
    check_choice("mode", "a", ("a", "b"))
    with pytest.raises(UsageError, match="mode='c' is not allowed; choose one of 'a', 'b'"):
        check_choice("mode", "c", ("a", "b"))
    assert str(unknown_name("unit", "x", [])) == "unknown unit 'x'; known: none"
    assert "20 in all" in str(unknown_name("unit", "zzz", [f"a{n}" for n in range(20)]))


def test_nobody_asks_for_bool_in_another_way() -> None:
    """`isinstance(x, bool)` beside an int or float is what `is_whole` and `is_number` are for."""
    asked = []
    for file in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.BoolOp):
                tests = [ast.unparse(part) for part in node.values]
                flags = [text.removeprefix("not ") for text in tests if text.endswith(", bool)")]
                subjects = {text.removeprefix("isinstance(").partition(",")[0] for text in flags}
                if any(f"isinstance({subject}, {kind}" in text for text in tests for subject in subjects
                       for kind in ("int", "float", "(int", "(float")):  # fmt: skip
                    asked.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert asked == ["errors.py:" + str(_line_of("is_whole"))], "use convswap.errors.is_whole or is_number"


def _line_of(function: str) -> int:
    tree = ast.parse((ROOT / "errors.py").read_text(encoding="utf-8"))
    found = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    return found.body[-1].lineno
