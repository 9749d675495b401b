"""The contract for pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from .case import cases_of
from .rules import select


def parametrize_with_contract(
    *names: str, rules: str | Iterable[str] = "*", skip: str | Iterable[str] = ()
) -> Callable[[Any], Any]:
    """A pytest decorator: the test runs with `case` and `rule`, once for every rule that concerns the case::

        @parametrize_with_contract("gain")
        def test_contract(case, rule):
            rule(case)

    It needs no plugin, fixture or setting. Every test seeds itself, so tests may run in any order and in parallel.

    Args:
        names: registered units; by default all of them.
        rules: names or wildcards of the rules to run.
        skip: names or wildcards of rules to leave out.

    Raises:
        UsageError: an unknown unit, or a pattern that no rule matches. The message gives the nearest names.
    """
    chosen = select(rules, skip)
    parameters = [
        pytest.param(case, rule, id=f"{case}-{rule}")
        for rule in chosen
        for case in cases_of(*names)
        if rule.concerns(case)
    ]
    return pytest.mark.parametrize(("case", "rule"), parameters)
