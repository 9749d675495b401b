"""The contract's cost tests can fail: a unit with an operator nobody has a formula for does not pass them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import test_contract_cost as contract
import torch
from contract_cases import Case
from torch import Tensor, nn

from convswap.measure.costs.model import CostError, Counts, register_cost, unregister_cost
from convswap.units import get_unit
from convswap.units.ghost.ghost import GhostConv2d


@torch.library.custom_op("convswap_contract::riddle", mutates_args=())
def riddle(x: Tensor) -> Tensor:
    return x.clone()


@riddle.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


riddle.register_autograd(lambda ctx, gradient: gradient.clone())


class RiddleConv2d(GhostConv2d):
    """A ghost unit that passes its output through an operator of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return riddle(super().forward(x))

    def fuse(self) -> nn.Module:
        return self


@pytest.fixture
def case() -> Case:
    return Case(replace(get_unit("ghost"), cls=RiddleConv2d), {})


@pytest.fixture
def declared() -> Iterator[None]:
    @register_cost("convswap_contract::riddle")
    def _(call: Any) -> Counts:
        return Counts(special=call.written)

    yield
    unregister_cost("convswap_contract::riddle")


def test_a_unit_with_an_unmapped_operator_fails(case: Case) -> None:
    with pytest.raises(CostError, match=r"convswap_contract::riddle in the model itself \(RiddleConv2d\)"):
        contract.test_every_operator_has_a_cost(case)
    with pytest.raises(CostError, match="convswap_contract::riddle"):
        contract.test_the_fused_form_has_a_cost(case)


@pytest.mark.usefixtures("declared")
def test_the_same_unit_passes_once_the_operator_has_a_cost(case: Case) -> None:
    contract.test_every_operator_has_a_cost(case)
    contract.test_the_fused_form_has_a_cost(case)
