"""The unit contract as tests that anyone can run.

`parametrize_with_contract` is for pytest, `check_unit` for plain Python. Both run the rules of `RULES` on a registered
unit of this package or of any other. They need the extra `testing`.
"""

from __future__ import annotations

from importlib import import_module

for _name in ("pytest", "hypothesis"):
    try:
        import_module(_name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'convswap.testing needs {_name}, which is not installed: pip install "convswap[testing]"', name=_name
        ) from error

from .case import Case, cases_of  # noqa: E402
from .check import Report, Result, check_unit  # noqa: E402
from .parametrize import parametrize_with_contract  # noqa: E402
from .rule import ContractError, NotApplicable, Rule, demand  # noqa: E402
from .rules import RULES, list_rules, rules_table  # noqa: E402

__all__ = [
    "RULES",
    "Case",
    "ContractError",
    "NotApplicable",
    "Report",
    "Result",
    "Rule",
    "cases_of",
    "check_unit",
    "demand",
    "list_rules",
    "parametrize_with_contract",
    "rules_table",
]
