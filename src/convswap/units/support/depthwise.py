"""Strided depthwise convolutions in mixed precision on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def run_depthwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """`conv(x)`, in float32 if a bfloat16 training step on a CPU would be many times slower.

    oneDNN has no fast kernel for the input gradient of a strided depthwise convolution in bfloat16: it takes 10 to 20
    times as long as in float32. The result has the precision that autocast would have given it.
    """
    if x.device.type != "cpu" or max(conv.stride) == 1 or not torch.is_grad_enabled() or x.is_meta:
        return conv(x)
    if conv.weight.dtype != torch.float32 or not torch.is_autocast_enabled("cpu"):
        return conv(x)
    low = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        return conv(x.float()).to(low)
