"""What a model costs on paper: parameters and multiply-accumulates."""

from __future__ import annotations

from torch import nn

from ..surgery.macs import count_macs

__all__ = ["count_macs", "count_parameters"]


def count_parameters(model: nn.Module) -> int:
    """The number of trained and frozen parameter values; a shared parameter counts once.

    >>> count_parameters(nn.Conv2d(3, 8, 3))
    224
    """
    return sum(parameter.numel() for parameter in model.parameters())
