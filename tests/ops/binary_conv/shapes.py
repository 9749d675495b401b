"""Drawn calls of the binary convolution, shared by its tests."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from convswap.ops.binary_conv import pack_weight


class Call(NamedTuple):
    """+-1 operands, their packed weight and where: (stride, padding, dilation, groups)."""

    x: Tensor
    weight: Tensor
    packed: Tensor
    where: tuple[tuple[int, int], tuple[int, int, int, int], tuple[int, int], int]

    @property
    def channels(self) -> tuple[int, int]:
        """(inputs, outputs)."""
        return self.x.shape[1], self.weight.shape[0]


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """Any geometry: strides to 3, dilations to 3, groups to depthwise, uneven kernels and pads, odd sizes."""
    groups = draw(st.sampled_from([1, 1, 1, 1, 2, 3]))
    inputs = draw(st.sampled_from([1, 2, 7, 31, 32, 63, 64, 65, 96, 127, 128, 130, 200, 256]) | st.integers(1, 200))
    outputs = draw(st.sampled_from([1, 7, 8, 9, 15, 16, 17, 24, 32, 40, 64, 65]) | st.integers(1, 70))
    kernel = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    stride, dilation = ((draw(st.integers(1, 3)), draw(st.integers(1, 3))) for _ in range(2))
    padding: Any = tuple(draw(st.integers(0, 4)) for _ in range(4))
    least = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    rows = draw(st.integers(max(1, least[0] - padding[2] - padding[3]), 14))
    columns = draw(st.integers(max(1, least[1] - padding[0] - padding[1]), 18))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    x = torch.randn(draw(st.integers(1, 3)), groups * inputs, rows, columns).sign()
    weight = torch.randn(groups * outputs, inputs, *kernel).sign()
    return Call(x, weight, pack_weight(weight, groups), (stride, padding, dilation, groups))
