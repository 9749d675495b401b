"""Probabilistic weighted pooling, the evaluation of max-pooling dropout (Wu and Gu, Neural Networks 71, 2015)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import check_number
from ..sites import all_paths, carry_hooks, replace
from .reading import pair


def geometry_of(pool: nn.MaxPool2d) -> dict[str, Any]:
    """The arguments of `max_pool2d`."""
    return {
        "kernel_size": pool.kernel_size,
        "stride": pool.stride,
        "padding": pool.padding,
        "dilation": pool.dilation,
        "ceil_mode": pool.ceil_mode,
    }


def probabilistic_max_pool(x_NCHW: Tensor, pool: nn.MaxPool2d, rate: float) -> Tensor:
    """sum_j (1 - rate) rate^(j-1) a_(j) over each window, with its j-th largest value a_(j).

    This is the expectation of the maximum when each value is dropped with probability `rate`, and 0 is taken where all
    are. Windows at the border hold fewer values.
    """
    kernel, stride, dilation = pair(pool.kernel_size), pair(pool.stride), pair(pool.dilation)
    size = F.max_pool2d(x_NCHW[:1, :1], **geometry_of(pool)).shape[2:]
    before = pair(pool.padding)
    # What the windows reach over the last row or column, which may be less or more than the padding.
    after = [
        (size[d] - 1) * stride[d] + dilation[d] * (kernel[d] - 1) + 1 - before[d] - x_NCHW.shape[2 + d] for d in (0, 1)
    ]
    padded = F.pad(x_NCHW, (before[1], after[1], before[0], after[0]), value=-torch.inf)
    windows = F.unfold(padded, kernel, dilation=dilation, stride=stride)
    windows = windows.view(*x_NCHW.shape[:2], kernel[0] * kernel[1], -1)
    ordered = windows.sort(2, descending=True).values
    ordered = ordered.masked_fill(ordered == -torch.inf, 0)  # the padding comes last
    place = torch.arange(ordered.shape[2], device=x_NCHW.device, dtype=x_NCHW.dtype)
    weights = (1 - rate) * rate**place
    return (ordered * weights[:, None]).sum(2).view(*x_NCHW.shape[:2], *size)


class ProbabilisticMaxPool2d(nn.MaxPool2d):
    """A max-pooling that takes the expectation over dropped values, see `probabilistic_max_pool`.

    Args:
        kernel_size, stride, padding, dilation, ceil_mode: as of `nn.MaxPool2d`.
        rate: the probability with which the training dropped a value.
    """

    def __init__(self, *arguments: Any, rate: float = 0.5, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.rate = check_number("rate", rate, lambda v: 0 <= v < 1, "a probability from 0 to below 1")

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        return probabilistic_max_pool(x_NCHW, self, self.rate)

    def extra_repr(self) -> str:
        """Show the rate."""
        return f"{super().extra_repr()}, rate={self.rate}"


def probabilistic_record(paths: Sequence[str], rate: float) -> dict[str, Any]:
    """The record of this surgery, for `perform_probabilistic`."""
    return {"kind": "probabilistic_pooling", "paths": list(paths), "rate": rate}


def perform_probabilistic(model: nn.Module, record: Mapping[str, Any]) -> nn.Module:
    """Put a `ProbabilisticMaxPool2d` in the place of each max-pooling of a record, in place."""
    for path in record["paths"]:
        old: Any = model.get_submodule(path)
        new = ProbabilisticMaxPool2d(**geometry_of(old), rate=record["rate"]).train(old.training)
        carry_hooks(old, new)
        model = replace(model, all_paths(model, old), new)
    return model
