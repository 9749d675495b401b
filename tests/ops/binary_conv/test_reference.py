"""The readable reference against the formula written as loops."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from convswap.ops.binary_conv import binary_conv2d_reference, signs
from convswap.ops.binary_conv.reference import count_dots


def loops(
    x: Tensor, weight: Tensor, stride: int, pads: tuple[int, int, int, int], dilation: int, groups: int
) -> Tensor:
    """The sum, pixel by pixel and tap by tap."""
    n, _, height, width = x.shape
    out, inputs, kh, kw = weight.shape
    left, right, top, bottom = pads
    rows = (height + top + bottom - dilation * (kh - 1) - 1) // stride + 1
    columns = (width + left + right - dilation * (kw - 1) - 1) // stride + 1
    y = torch.zeros(n, out, rows, columns)
    for image, o, p, q in itertools.product(range(n), range(out), range(rows), range(columns)):
        for c, u, v in itertools.product(range(inputs), range(kh), range(kw)):
            row, column = p * stride - top + u * dilation, q * stride - left + v * dilation
            if 0 <= row < height and 0 <= column < width:
                number = x[image, o // (out // groups) * inputs + c, row, column]
                y[image, o, p, q] += (1 if number >= 0 else -1) * (1 if weight[o, c, u, v] >= 0 else -1)
    return y


@pytest.mark.parametrize(
    ("stride", "pads", "dilation", "groups"),
    [(1, (1, 1, 1, 1), 1, 1), (2, (0, 2, 1, 0), 1, 2), (3, (2, 1, 3, 2), 2, 1), (1, (4, 4, 4, 4), 1, 3)],
)
def test_equals_loops(stride: int, pads: tuple[int, int, int, int], dilation: int, groups: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 6, 6, 5), torch.randn(6, 6 // groups, 3, 2)
    x[0, 0, 0] = 0
    expected = loops(x, weight, stride, pads, dilation, groups)
    where = (stride, stride), pads, (dilation, dilation), groups
    assert torch.equal(binary_conv2d_reference(x, weight, None, None, None, *where), expected)
    scale, bias, map_ = torch.randn(6), torch.randn(6), torch.rand(2, *expected.shape[2:])
    y = binary_conv2d_reference(x, weight, scale, bias, map_, *where, relu=True)
    formula = (expected * scale[:, None, None] * map_[:, None] + bias[:, None, None]).relu()
    torch.testing.assert_close(y, formula)


def test_gradient_is_the_clipped_straight_through_estimator() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64).mul_(1.5).requires_grad_()
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64).requires_grad_()
    x.data[0, 0, 0, :2] = torch.tensor([1.0, -1.0])
    scale = torch.rand(4, dtype=torch.float64).requires_grad_()
    gradient = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    binary_conv2d_reference(x, weight, scale, padding=(1, 1, 1, 1)).backward(gradient)

    sx, sw = signs(x.detach()).requires_grad_(), signs(weight.detach()).requires_grad_()
    dots = F.conv2d(sx, sw, padding=1)
    (dots * scale.detach()[:, None, None]).backward(gradient)
    assert x.grad is not None
    assert weight.grad is not None
    assert scale.grad is not None
    assert sx.grad is not None
    assert sw.grad is not None
    torch.testing.assert_close(x.grad, sx.grad * (x.detach().abs() < 1))
    assert x.grad[0, 0, 0, :2].tolist() == [0, 0]
    torch.testing.assert_close(weight.grad, sw.grad * (weight.detach().abs() < 1))
    torch.testing.assert_close(scale.grad, (gradient * dots.detach()).sum((0, 2, 3)))


def test_sums_beyond_single_precision_are_exact() -> None:
    x, weight = torch.ones(1, 2**20 + 1, 3, 6), torch.ones(1, 2**20 + 1, 3, 6)
    assert binary_conv2d_reference(x, weight).item() == (2**20 + 1) * 18
    x, weight = torch.ones(1, 2**20 + 1, 1, 17), torch.ones(1, 2**20 + 1, 1, 17)
    assert count_dots(x, weight).item() == (2**20 + 1) * 17  # odd: no number of single precision
