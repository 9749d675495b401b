"""The batch norm at the end of a branch, which takes over a constant factor when a method leaves the network."""

from __future__ import annotations

import torch
from torch import nn

from .places import Branch, Places


def norm_at_end(places: Places, block: str, branch: Branch) -> nn.BatchNorm2d:
    """The batch norm whose output a branch returns.

    Raises:
        UsageError: the branch ends in something else, so its expected scale could not stay in the network.
    """
    call = next(each for each in reversed(places.tape.calls) if each.module is branch.module)
    node = places.tape.nodes[call.returned]  # type: ignore[index]
    for each in node.returned_by:
        norm = each.module
        once = len(places.tape.calls_of(norm)) == 1
        if isinstance(norm, nn.BatchNorm2d) and norm.affine and "batch_norm" in node.operator and once:
            return norm
    raise places.refuse(
        f"has a branch without a BatchNorm at its end ({block}, behind {branch.path}), which would keep the branch's "
        "expected scale for evaluation",
        "stochastic_depth needs none",
    )


def scale_norm(norm: nn.BatchNorm2d, factor: float) -> None:
    """Multiply what a batch norm returns by a constant, in its weight and bias."""
    with torch.no_grad():
        norm.weight.mul_(factor)
        norm.bias.mul_(factor)
