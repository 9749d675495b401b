"""The groups of an optimizer in use after a swap."""

from __future__ import annotations

import torch
from torch import nn

import convswap


def decays(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    by_id = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    return {name: by_id[id(p)] for name, p in model.named_parameters()}


def test_what_a_unit_excludes_leaves_a_group_that_decays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.02, momentum=0.9)
    plan = convswap.plan_swap(model, "circle", where="all", radius="learnable")
    swapped = plan.apply(inplace=True, optimizer=optimizer)
    assert decays(swapped, optimizer) == {
        "0.weight": 0.02,
        "0.radius_logit": 0.0,
        "2.weight": 0.02,
        "2.radius_logit": 0.0,
    }
    assert all((group["lr"], group["momentum"]) == (0.1, 0.9) for group in optimizer.param_groups)


def test_what_a_unit_does_not_exclude_decays_with_its_kind() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.02)
    swapped = convswap.plan_swap(model, "dendritic", where="all", start="fresh").apply(
        inplace=True, optimizer=optimizer
    )
    excluded = convswap.get_unit("dendritic").no_weight_decay
    found = decays(swapped, optimizer)
    assert {name: value for name, value in found.items() if name.rpartition(".")[2] not in excluded}
    assert all(value == (0.0 if name.rpartition(".")[2] in excluded else 0.02) for name, value in found.items())
