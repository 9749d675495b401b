"""Multiply-accumulates of a forward pass, counted without running it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .modes import evaluating


def count_macs(model: nn.Module, example_input: Tensor) -> int:
    """Multiply-accumulates of one example's forward pass in eval mode.

    Counted are convolutions and matrix products (attention is counted as its two products). Elementwise work,
    normalisation, pooling and transforms are not: a unit that spends its time there looks cheaper here than it
    is, which is why measured latency stands beside this number.

    The pass runs on the meta device, on a copy without memory, so a large network costs nothing; a model with
    an operator that the meta device does not know is run for real. The given model is left as it was.

    Args:
        model: any module that takes one tensor.
        example_input: (N, C, H, W), N at least 1; only its first example is used.

    >>> count_macs(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 32, 32))
    221184
    """
    if example_input.ndim == 0 or example_input.shape[0] < 1:
        raise UsageError(f"example_input of shape {tuple(example_input.shape)} holds no example; give at least one")
    one = example_input[:1]
    try:
        return _count(meta_copy(model), one.to("meta"))
    except (RuntimeError, NotImplementedError, TypeError):
        # No meta kernel, a value read inside forward, or a tensor held outside parameters and buffers. If the
        # model itself is at fault, the real pass raises the error that says so.
        return _count(model, one)


def meta_copy(model: nn.Module) -> nn.Module:
    """A deep copy whose parameters and buffers have shapes but no memory."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def _count(model: nn.Module, one: Tensor) -> int:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode  # 0.1 s to import, and only counting needs it

    # The fused attention kernels have no formula on every device; the plain one is two counted products.
    with evaluating(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(one.clone())  # it may work in place
    return counter.get_total_flops() // 2
