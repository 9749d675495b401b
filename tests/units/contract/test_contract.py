"""The whole contract on every registered unit, as any other package would run it."""

from __future__ import annotations

from convswap.testing import Case, Rule, parametrize_with_contract


@parametrize_with_contract()
def test_contract(case: Case, rule: Rule) -> None:
    rule(case)
