"""The memory format of a tensor, and the one to answer in."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from convswap.ops.memory_format import is_channels_last, memory_format

LAST = torch.channels_last


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1), (0, 3, 4, 5)])
@pytest.mark.parametrize("given", [torch.contiguous_format, LAST])
def test_answers_in_the_format_of_the_input(shape: tuple[int, ...], given: torch.memory_format) -> None:
    x = torch.zeros(shape).to(memory_format=given)
    assert is_channels_last(x) == (x.is_contiguous(memory_format=LAST) and not x.is_contiguous())
    assert memory_format(x) is (LAST if is_channels_last(x) else torch.contiguous_format)
    if not x.is_contiguous() or given is torch.contiguous_format:  # else both formats are the same memory
        y = F.conv2d(x, torch.zeros(2, shape[1], 1, 1))
        assert y.is_contiguous(memory_format=memory_format(x))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (2, 3, 4, 5, 6)])
def test_only_images_are_channels_last(shape: tuple[int, ...]) -> None:
    assert not is_channels_last(torch.zeros(shape))
    assert memory_format(torch.zeros(shape)) is torch.contiguous_format
