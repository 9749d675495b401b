"""The bounds of feature maps, from the exported graph: right for what runs, and never narrower than the truth."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convswap.surgery.export import export_program
from convswap.surgery.inputs import Inputs
from convswap.surgery.residuals.ranges import find_ranges

IMAGE = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(6)) * 9


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def overwritten(x: Tensor) -> Tensor:
    y = x.relu()
    y.view(-1).sub_(3)  # through another view
    return F.max_pool2d(y, 1)


BOUNDS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, float]]] = {
    "relu": (F.relu, (0, inf)),
    "relu6": (F.relu6, (0, 6)),
    "hardtanh": (lambda x: F.hardtanh(x, -2, 3), (-2, 3)),
    "clamp": (lambda x: x.clamp(-1, 4), (-1, 4)),
    "clamp from below": (lambda x: x.clamp(min=1), (1, inf)),
    "of a positive map": (lambda x: F.hardtanh(x.relu(), -2, 3), (0, 3)),
    "max pool": (lambda x: F.max_pool2d(x.relu(), 3, 2, 1), (0, inf)),
    "average pool": (lambda x: F.avg_pool2d(x.clamp(2, 4), 2), (2, 4)),
    "padded average pool": (lambda x: F.avg_pool2d(x.clamp(2, 4), 3, 1, 1), (0, 4)),
    "mean": (lambda x: x.relu().mean((2, 3)), (0, inf)),
    "sigmoid": (torch.sigmoid, (0, 1)),
    "sum": (lambda x: x.relu() + x.clamp(-1, 1), (-1, inf)),
    "difference": (lambda x: x.relu() - x.relu(), (-inf, inf)),
    "product": (lambda x: x.relu() * x.sigmoid(), (0, inf)),
    "cat": (lambda x: torch.cat([x.relu(), x.clamp(-2, 0)], 1), (-2, inf)),
    "view": (lambda x: x.relu().flatten(1).unsqueeze(1), (0, inf)),
    "convolution": (lambda x: F.conv2d(x.relu(), torch.ones(1, 4, 1, 1)), (-inf, inf)),
    "silu": (F.silu, (-inf, inf)),
    "overwritten in place": (overwritten, (-inf, inf)),
    "the input": (lambda x: x.detach(), (-inf, inf)),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds(name: str) -> None:
    function, bounds = BOUNDS[name]
    program = export_program(Function(function).eval(), Inputs((IMAGE,), {}))
    (result,) = next(iter(reversed(program.graph.nodes))).args[0]
    assert find_ranges(program.graph)[result] == bounds
    value = function(IMAGE)
    assert bounds[0] <= value.min()
    assert value.max() <= bounds[1]
