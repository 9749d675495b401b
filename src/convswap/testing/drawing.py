"""Hypothesis strategies: tiny convolutions, places and inputs for the rules to draw."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ..units import Place


@dataclass(frozen=True)
class Drawn:
    """A convolution (with its own random weights) and an input for it."""

    conv: nn.Conv2d
    x_NCHW: Tensor

    def __repr__(self) -> str:
        return f"{self.conv} on {tuple(self.x_NCHW.shape)} {self.x_NCHW.dtype}"


def for_drawn(check: Callable[..., None], examples: int, **strategies: Any) -> None:
    """Call `check` with drawn arguments. A failure carries the smallest example as a note. This writes no files."""
    chosen = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize="CI" in os.environ,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    chosen(given(**strategies)(check))()


@st.composite
def _kernels(draw: st.DrawFn) -> tuple[int, int]:
    shape = draw(st.sampled_from(["3x3", "odd", "square", "any"]))
    if shape == "3x3":
        return 3, 3
    if shape == "any":
        return draw(st.integers(1, 7)), draw(st.integers(1, 7))
    side = draw(st.sampled_from([1, 3, 5, 7]) if shape == "odd" else st.integers(1, 7))
    return side, side


@st.composite
def convolutions(
    draw: st.DrawFn,
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64),
    batches: tuple[int, ...] = (0, 1, 2),
) -> Drawn:
    """A convolution as `nn.Conv2d` allows it: groups divide channels, padding fits its mode, the kernel fits."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel = draw(_kernels())
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    padding = draw(st.one_of(st.just("same"), st.just("half"), st.tuples(st.integers(0, 3), st.integers(0, 3))))
    if padding == "same":
        stride = (1, 1)
    if padding == "half":
        padding = (kernel[0] // 2, kernel[1] // 2)
    dtype = draw(st.sampled_from(dtypes))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    conv = nn.Conv2d(
        groups * draw(st.integers(1, 3)),
        groups * draw(st.integers(1, 3)),
        kernel,
        stride=stride,
        padding=padding,
        dilation=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"])),
        dtype=dtype,
    ).eval()
    height, width = draw(st.integers(3, 9)), draw(st.integers(3, 9))
    x_NCHW = torch.randn(draw(st.sampled_from(batches)), conv.in_channels, height, width, dtype=dtype)
    try:
        conv(x_NCHW)
    except (RuntimeError, ValueError):  # beyond nn.Conv2d itself: kernel over the padded input, wide reflection
        assume(False)
    return Drawn(conv, x_NCHW)


@st.composite
def places(draw: st.DrawFn) -> Place:
    """A place where a block unit might be asked to stand."""
    channels = st.sampled_from([1, 3, 8, 12, 16, 24, 32])
    return Place(draw(channels), draw(channels), draw(st.integers(1, 3)), draw(st.integers(1, 5)))
