"""Multiply-accumulates of a forward pass, counted without running it."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from .inputs import ExampleInput, Inputs
from .modes import evaluating, without_gradients


def count_macs(model: nn.Module, example_input: ExampleInput) -> int:
    """Multiply-accumulates of one example's forward pass in eval mode.

    Convolutions and matrix products are counted (attention as its two products). Elementwise work, normalisation,
    pooling and transforms are not counted. A unit that spends its time there looks cheaper here than it is, so measured
    latency is reported beside this number.

    The pass runs on the meta device, on a copy without memory, so a large network costs nothing. A model with an
    operator that the meta device does not support runs for real. The given model is left as it was.

    Args:
        model: any module.
        example_input: (N, C, H, W), N at least 1; only its first example is used. Other forms of input
            (`convswap.surgery.inputs`) are counted whole, and the number is divided by that of their examples.

    >>> count_macs(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 32, 32))
    221184
    """
    return count_macs_inside(model, example_input)[""]


def count_macs_inside(model: nn.Module, example_input: ExampleInput, paths: Iterable[str] = ()) -> dict[str, int]:
    """`count_macs` of the whole model, under the path "", and of the calls of the modules at these paths."""
    inputs = Inputs.of(example_input, model)
    if inputs.first.ndim == 0 or inputs.images < 1:
        raise UsageError(f"example_input of shape {tuple(inputs.first.shape)} holds no example; give at least one")
    one = inputs if inputs.single is None else inputs.map(lambda tensor: tensor[:1])
    try:
        macs = _count(meta_copy(model), one.map(lambda tensor: tensor.to("meta")), paths)
    except Exception:
        # There is no meta kernel, forward reads a value, or a tensor is held outside parameters and buffers. If the
        # model itself is at fault, the real pass raises the error that says so.
        macs = _count(model, one, paths)
    return {path: count // one.images for path, count in macs.items()}


def meta_copy(model: nn.Module) -> nn.Module:
    """A deep copy whose parameters and buffers have shapes but no memory."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def _count(model: nn.Module, one: Inputs, paths: Iterable[str]) -> dict[str, int]:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode  # takes 0.1 s to import, and only counting needs it

    # The fused attention kernels lack a formula on some devices. The plain kernel is two counted products.
    plain = sdpa_kernel(SDPBackend.MATH)
    # The counter asks tensors that require a gradient for its function, which an expanded class token has not.
    with evaluating(model), without_gradients(model), torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
        one.call(model)
    inside = counter.get_flop_counts()
    found = {path: sum(inside.get(f"{type(model).__name__}.{path}", {}).values()) // 2 for path in paths}
    return {"": counter.get_total_flops() // 2} | found
