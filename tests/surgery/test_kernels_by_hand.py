"""Kernels written into larger ones, on axes that differ."""

from __future__ import annotations

import pytest
import torch

from convswap.surgery.algebra import average_pool_kernel, embed_kernel, identity_kernel

LIKE = torch.zeros((), dtype=torch.float64)


@pytest.mark.parametrize(("dilation", "size"), [((1, 2), (4, 5)), ((2, 1), (5, 4)), ((3, 2), (6, 5))])
def test_a_kernel_is_spread_by_the_dilation_of_each_axis(dilation: tuple[int, int], size: tuple[int, int]) -> None:
    weight = torch.arange(1.0, 9.0).reshape(2, 1, 2, 2)
    large = embed_kernel(weight, (0, 1), dilation, size, (1, 2))
    want = torch.zeros(2, 1, *size)
    for row in range(2):
        for column in range(2):
            want[:, :, 1 + row * dilation[0], 1 + column * dilation[1]] = weight[:, :, row, column]
    assert torch.equal(large, want)


def test_an_average_is_over_all_pixels_of_its_window() -> None:
    kernel = average_pool_kernel(4, 2, (2, 5), like=LIKE)
    assert kernel.shape == (4, 2, 2, 5)
    assert torch.allclose(kernel.sum((1, 2, 3)), torch.ones(4, dtype=torch.float64))
    assert torch.allclose(kernel[3, 1], torch.full((2, 5), 0.1, dtype=torch.float64))
    assert not kernel[3, 0].any()


def test_the_identity_reads_the_channel_of_its_own_group() -> None:
    kernel = identity_kernel(6, 2, (3, 5), like=LIKE)
    for channel in range(6):
        want = torch.zeros(3, 3, 5, dtype=torch.float64)
        want[channel % 3, 1, 2] = 1
        assert torch.equal(kernel[channel], want)
