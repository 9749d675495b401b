"""The memory format of a tensor: one question, used everywhere."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether x is only channels last. With one channel or one pixel, both formats are the same memory.

    >>> is_channels_last(torch.zeros(1, 2, 3, 3).to(memory_format=torch.channels_last))
    True
    >>> is_channels_last(torch.zeros(1, 1, 3, 3).to(memory_format=torch.channels_last))
    False
    """
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def memory_format(x: Tensor) -> torch.memory_format:
    """The memory format of the output: channels last if the input is only that."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format
