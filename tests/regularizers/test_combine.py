"""Combinations that cannot work are refused before anything is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest

from convswap.errors import UsageError
from convswap.regularizers import REGULARIZERS, Regularizer, get_regularizer, overrides
from convswap.train import Recipe, regularized

HINGE = Recipe(loss="squared_hinge", label_smoothing=0.0)
SOFT = [n for n, cls in REGULARIZERS.items() if cls.soft_targets or overrides(cls, Regularizer.objective)]
SMOOTH = [n for n, cls in REGULARIZERS.items() if overrides(cls, Regularizer.smoothing)]


@pytest.mark.parametrize("name", SOFT)
def test_soft_targets_need_the_cross_entropy(name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}' with loss='squared_hinge' is not allowed"):
        regularized(HINGE, [name])


@pytest.mark.parametrize("name", SMOOTH)
def test_labels_are_smoothed_once(name: str) -> None:
    changed = f"{name}:epsilon=0.3"
    with pytest.raises(UsageError, match=r"label_smoothing=0\.1"):
        Recipe(regularize=(changed,))
    assert Recipe(regularize=(changed,), label_smoothing=0.0) == regularized(Recipe(), [changed])
    with pytest.raises(UsageError, match="squared_hinge"):
        regularized(HINGE, [name])


@pytest.mark.parametrize("word", ["mixer", "policy", "resolution", "copies", "targets"])
def test_methods_that_exclude_each_other(word: str) -> None:
    names = [name for name, cls in REGULARIZERS.items() if cls.alone == word]
    for first in names:
        for second in names:
            if first != second:
                with pytest.raises(UsageError, match="cannot be combined"):
                    regularized(Recipe(), [first, second])


def test_a_method_names_those_that_it_excludes() -> None:
    for name, cls in REGULARIZERS.items():
        for other in cls.excludes:
            for pair in ([name, other], [other, name]):
                with pytest.raises(UsageError, match=f"'{name}'.* cannot be combined"):
                    regularized(Recipe(), pair)


def test_smoothing_is_one_fact() -> None:
    assert regularized(Recipe(), ["label_smoothing:0.2"]) == Recipe(label_smoothing=0.2)
    assert regularized(Recipe(label_smoothing=0.0), ["label_smoothing"]) == Recipe()
    assert regularized(Recipe(label_smoothing=0.3), ["cutout"]).label_smoothing == 0.3
    with pytest.raises(UsageError, match="two strengths of one thing"):
        Recipe(regularize=("label_smoothing:0.2",))


def test_equal_recipes_have_equal_descriptions() -> None:
    texts = [("mixup:0.2", "cutout:16"), ["cutout", "mixup:alpha=0.20"]]
    first, second = (Recipe(regularize=given) for given in texts)  # type: ignore[arg-type]
    assert first == second
    assert first.as_dict() == second.as_dict()
    assert first.as_dict()["regularize"] == ["cutout", "mixup:alpha=0.2"]
    assert Recipe.from_dict(first.as_dict()) == first
    assert "regularize" not in Recipe().as_dict()
    assert replace(first, regularize=()) == Recipe()


def test_every_method_can_be_in_a_recipe() -> None:
    for name in REGULARIZERS:
        recipe = regularized(Recipe(), [name])
        assert recipe != Recipe() or get_regularizer(name).name == "label_smoothing"
