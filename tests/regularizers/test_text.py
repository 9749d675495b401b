"""Methods as text: equal meanings have equal text, and mistakes are refused in one line."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convswap.errors import UsageError
from convswap.regularizers import REGULARIZERS, get_regularizer, parse_regularizer, parse_regularizers, text_of
from convswap.regularizers.text import split_list


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("cutout", "cutout"),
        ("cutout:16", "cutout"),
        ("cutout:length=8", "cutout:length=8"),
        (" cutout : 8 ", "cutout:length=8"),
        ("mixup:1", "mixup"),
        ("mixup:alpha=1.0", "mixup"),
        ("mixup:0.20", "mixup:alpha=0.2"),
        ("tsla:until=0.75:epsilon=0.2", "tsla:epsilon=0.2:until=0.75"),
    ],
)
def test_equal_meanings_have_equal_text(text: str, canonical: str) -> None:
    method = parse_regularizer(text)
    assert text_of(method) == canonical
    assert parse_regularizer(canonical) == method


@pytest.mark.parametrize("name", REGULARIZERS)
def test_every_method_survives_text(name: str) -> None:
    method = get_regularizer(name)()
    assert text_of(method) == name
    assert parse_regularizer(name) == method


@given(st.floats(0.01, 100), st.integers(2, 10**6))
def test_numbers_keep_every_digit(alpha: float, length: int) -> None:
    for text in (f"mixup:alpha={alpha!r}", f"cutout:length={length}"):
        method = parse_regularizer(text)
        assert parse_regularizer(text_of(method)) == method
    assert parse_regularizer(f"mixup:{alpha!r}").alpha == alpha  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cutuot", "unknown regularizer 'cutuot'; did you mean 'cutout'?"),
        ("cutout:lenght=8", "unknown option of cutout 'lenght'; did you mean 'length'?"),
        ("cutout:length=x", "cutout: length='x' is not allowed; give a whole number"),
        ("cutout:8.5", "cutout: length='8.5' is not allowed; give a whole number"),
        ("cutout:0", "cutout: length=0 is not allowed; give a whole number of at least 2"),
        ("mixup:nan", "mixup: alpha=nan is not allowed; give a number above 0"),
        ("mixup:alpha=-1", "mixup: alpha=-1.0 is not allowed"),
        ("mixup:alpha=1:alpha=2", "gives 'alpha' twice"),
        ("tsla:0.1:0.2", "'0.2' has no name; write OPTION=VALUE"),
        ("sls", "regularizer 'sls' is not offered: "),
        ("", "unknown regularizer ''"),
    ],
)
def test_a_mistake_is_one_line(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_regularizer(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given_value", ["cutout", 3, (3,), ["cutout", "cutout:8"]])
def test_what_is_no_list_of_methods_is_refused(given_value: object) -> None:
    with pytest.raises(UsageError):
        parse_regularizers(given_value)  # type: ignore[arg-type]


def test_the_order_of_names_changes_nothing() -> None:
    assert parse_regularizers(["mixup", "cutout"]) == parse_regularizers(["cutout", "mixup"])
    assert [type(method).name for method in parse_regularizers(["tsla", "mixup", "cutout"])] == [
        "cutout",
        "mixup",
        "tsla",
    ]


@pytest.mark.parametrize("text", ["cutout,,mixup", ",", "none,cutout", "cutout,"])
def test_a_list_with_holes_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not allowed"):
        split_list(text)


def test_every_option_has_a_kind_that_text_can_say() -> None:
    kinds = {type(field.default) for cls in REGULARIZERS.values() for field in fields(cls)}  # type: ignore[arg-type]
    assert kinds <= {bool, int, float, str, tuple}
