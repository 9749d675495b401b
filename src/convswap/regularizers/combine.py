"""Which methods can be combined, with one another and with a recipe's loss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from ..errors import UsageError
from .contract import Regularizer, overrides
from .label.label_smoothing import LabelSmoothing

ONE_OF = {
    "mixer": "one batch is mixed once; mixup_cutmix takes one of both for each batch",
    "policy": "one policy changes the pixels",
    "resolution": "a batch has one resolution",
    "copies": "one method decides how often an image stands in a batch",
    "targets": "one method decides how smooth the labels are",
    "step": "each decides what a whole step computes",
}
"""Why methods with the same `alone` exclude each other."""


def settle(
    methods: Sequence[Regularizer], *, loss: str, label_smoothing: float, accumulate: int = 1
) -> tuple[tuple[Regularizer, ...], float]:
    """Refuse what cannot work together. The method `label_smoothing` is moved into the recipe's field of that name.

    Returns:
        The other methods, and the value of the field.

    Raises:
        UsageError: methods that exclude each other, or the recipe's loss, or smooth labels twice.
    """
    for first, second in combinations(methods, 2):
        _check_pair(first, second)
    methods, label_smoothing = _into_field(methods, label_smoothing)
    for method in methods:
        whole_step = overrides(method, Regularizer.objective)
        if accumulate > 1 and ((whole_step and not method.separable) or method.copies() > 1):
            raise UsageError(
                f"regularizer {method.name!r} with accumulate={accumulate} is not allowed: it needs all images of a "
                "step together; give accumulate=1"
            )
        if (loss == "squared_hinge" and method.soft_targets) or (loss != "cross_entropy" and whole_step):
            raise UsageError(
                f"regularizer {method.name!r} with loss={loss!r} is not allowed: the loss gets class weights or is "
                "changed by the method; use loss='cross_entropy'"
            )
        if method.replaces_smoothing and (loss != "cross_entropy" or label_smoothing > 0):
            given = f"loss={loss!r}" if loss != "cross_entropy" else f"label_smoothing={label_smoothing!r}"
            raise UsageError(
                f"regularizer {method.name!r} with {given} is not allowed: labels are smoothed once, in the cross "
                "entropy; give loss='cross_entropy' and label_smoothing=0.0"
            )
    return methods, label_smoothing


def _check_pair(first: Regularizer, second: Regularizer) -> None:
    pair = f"regularizers {first.name!r} and {second.name!r} cannot be combined"
    for one, other in ((first, second), (second, first)):
        if one.two_networks and overrides(other, Regularizer.attach):
            raise UsageError(f"{pair}: {one.name} trains two networks, and {other.name} would sit in one of them")
        if other.name in one.excludes:
            raise UsageError(f"{pair}: {one.excludes[other.name]}")
    if first.alone and first.alone == second.alone:
        raise UsageError(f"{pair}: {ONE_OF[first.alone]}")
    if overrides(first, Regularizer.objective) and overrides(second, Regularizer.objective):
        raise UsageError(f"{pair}: {ONE_OF['step']}")


def _into_field(methods: Sequence[Regularizer], label_smoothing: float) -> tuple[tuple[Regularizer, ...], float]:
    named = [method for method in methods if isinstance(method, LabelSmoothing)]
    if not named:
        return tuple(methods), label_smoothing
    if label_smoothing not in (0, named[0].epsilon):
        raise UsageError(
            f"regularizer 'label_smoothing' with epsilon={named[0].epsilon!r} and label_smoothing={label_smoothing!r} "
            "are two strengths of one thing; give label_smoothing=0.0 or no such regularizer"
        )
    return tuple(method for method in methods if method not in named), named[0].epsilon


def replaces_smoothing(methods: Sequence[Regularizer]) -> bool:
    """Does one of the methods take the place of the recipe's `label_smoothing`?"""
    return any(method.replaces_smoothing for method in methods)
