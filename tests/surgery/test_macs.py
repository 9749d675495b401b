"""Counting multiply-accumulates: what a model must not need for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convswap.measure import cost
from convswap.surgery.macs import count_macs


class Token(nn.Module):
    """Hands a view of a parameter to a module, as transformers do with their class token."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.layer = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.token.expand(len(x), -1, -1)) + x


class OnlyForReal(Token):
    """Reads a value, which the meta device does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if float(x.sum()) >= 0 else x


def test_a_view_of_a_parameter_is_passed_to_a_module() -> None:
    for model in (Token(), OnlyForReal()):
        assert count_macs(model, torch.zeros(1, 1, 5)) == 20
        assert cost(model, torch.zeros(1, 1, 5), fused=False).counts.macs == 20
        assert all(parameter.requires_grad for parameter in model.parameters())
