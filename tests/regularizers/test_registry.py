"""The table of methods: what a class must say of itself, and what is said where a name is not in the table."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from convswap.errors import UsageError
from convswap.regularizers import (
    NOT_OFFERED,
    PLACES,
    REGULARIZERS,
    Regularizer,
    get_regularizer,
    list_regularizers,
    overrides,
)
from convswap.regularizers.registry import register_regularizer

HOOKS = {
    "order": ("copies", "repeats"),
    "pixels": ("pixels",),
    "size": ("batch",),
    "batch": ("batch",),
    "mix": ("batch",),
    "network": ("attach",),
    "loss": ("smoothing", "objective"),
    "step": ("objective",),
}


@pytest.mark.parametrize("name", REGULARIZERS)
def test_every_method_says_what_it_is(name: str) -> None:
    cls = get_regularizer(name)
    assert cls.name == name
    assert cls.family in ("data", "internal", "label")
    assert cls.__module__ == f"convswap.regularizers.{cls.family}.{cls.__module__.rpartition('.')[2]}"
    for fact in (cls.paper, cls.summary, cls.cost):
        assert fact
        assert "\n" not in fact
    assert cls.__doc__
    assert any(overrides(cls, getattr(Regularizer, hook)) for hook in HOOKS[cls.place]), "it acts where it says"


def test_the_list_is_the_table() -> None:
    assert sorted(list_regularizers()) == sorted(REGULARIZERS)
    places = list(PLACES)
    acting = [places.index(REGULARIZERS[n].place) for n in list_regularizers() if REGULARIZERS[n].family == "data"]
    assert acting == sorted(acting)


@pytest.mark.parametrize("name", NOT_OFFERED)
def test_what_is_not_offered_says_why(name: str) -> None:
    assert name not in REGULARIZERS
    with pytest.raises(UsageError, match=f"'{name}' is not offered: ."):
        get_regularizer(name)


def test_excluded_names_are_names() -> None:
    for cls in REGULARIZERS.values():
        assert set(cls.excludes) <= REGULARIZERS.keys()
        assert all(cls.excludes.values())


def test_a_class_that_cannot_be_in_the_table_is_refused() -> None:
    class NoDataclass(Regularizer):
        name, family, place, paper, summary = "mine", "data", "batch", "none", "nothing"

    with pytest.raises(UsageError, match="not a frozen dataclass"):
        register_regularizer(NoDataclass)

    @dataclass(frozen=True)
    class NoPaper(Regularizer):
        name, family, place, summary = "mine", "data", "batch", "nothing"

    with pytest.raises(UsageError, match="lacks the class attribute 'paper'"):
        register_regularizer(NoPaper)

    @dataclass(frozen=True)
    class Taken(Regularizer):
        name, family, place, paper, summary = "cutout", "data", "batch", "none", "nothing"

    with pytest.raises(UsageError, match="'cutout' is registered twice"):
        register_regularizer(Taken)
    assert "mine" not in REGULARIZERS


def test_names_in_one_word() -> None:
    for name in REGULARIZERS:
        assert get_regularizer(name.replace("_", "")) is REGULARIZERS[name]
