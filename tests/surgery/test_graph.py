"""The exported graph's names: modules that a forward reaches through a slice of a container."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import convswap


class Block(nn.Module):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class Sliced(nn.Module):
    """Runs slices of its layers. Because the activation is shared, `torch.export` names modules by how it met them."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        activation = nn.SiLU()
        blocks = [Block(activation) for _ in range(5)]
        self.layers = nn.Sequential(*blocks) if kind is nn.Sequential else nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x)
        for layer in self.layers[1:-1]:
            x = layer(x)
        return self.layers[-1:][0](x)


@pytest.mark.parametrize("kind", [nn.Sequential, nn.ModuleList])
@pytest.mark.parametrize("unit", ["ic", "ghost"])
def test_units_behind_a_slice_are_absorbed_and_fused(unit: str, kind: type[nn.Module]) -> None:
    """It ended in torch's AttributeError: Sequential has no attribute `slice(1, -1, None)`."""
    torch.manual_seed(0)
    model, x = Sliced(kind).eval(), torch.randn(2, 4, 8, 8)
    swapped = convswap.swap(model, unit, where="all", example_input=x)
    plan = convswap.plan_fuse(swapped, x)
    assert plan.count("unit") == 5
    assert [type(m).__name__ for m in plan.apply().modules()].count("BatchNorm2d") == 0
    assert not plan.skipped
    assert plan.difference < 1e-12
