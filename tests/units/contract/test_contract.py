"""The whole contract on every registered unit, as any other package would run it."""

from __future__ import annotations

import pytest
import torch

from convswap.testing import Case, Rule, parametrize_with_contract

OLD_TORCH = torch.__version__.startswith(("2.11.", "2.12.", "2.13."))


@parametrize_with_contract()
def test_contract(case: Case, rule: Rule) -> None:
    if OLD_TORCH and rule.name == "onnx_computes_the_same" and dict(case.options).get("boundary") == "zero":
        pytest.skip("torch 2.11 translates the padded inverse transform to a file that ONNX Runtime refuses")
    rule(case)
