"""Signs and levels: special numbers, the even grid, and the clipped straight-through gradient, compiled too."""

from __future__ import annotations

import pytest
import torch

from convswap.ops.binary_conv import binary_conv2d_reference
from convswap.ops.signs import levels, levels_ste, sign_ste, signs

DOUBLE = torch.float64


def test_signs_of_special_numbers() -> None:
    x = torch.tensor([0.0, -0.0, 1e-45, -1e-45, float("inf"), -float("inf"), float("nan")])
    assert signs(x).tolist() == [1, 1, 1, -1, 1, -1, -1]


def test_sign_has_a_clipped_straight_through_gradient() -> None:
    x = torch.tensor([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 3.0, float("inf"), float("nan")], requires_grad=True)
    y = sign_ste(x)
    assert y.tolist() == [-1, -1, -1, 1, 1, 1, 1, 1, 1, -1]
    y.backward(torch.arange(1.0, 11.0))
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 3, 4, 5, 6, 0, 0, 0, 0]
    assert torch.equal(sign_ste(x.detach()), signs(x.detach()))


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_levels_are_the_nearest_of_an_even_grid(bits: int) -> None:
    torch.manual_seed(0)
    x = (torch.randn(500, dtype=DOUBLE) * 0.7).requires_grad_()
    y = levels_ste(x, bits)
    grid = torch.linspace(-1, 1, 2**bits, dtype=DOUBLE)
    nearest = grid[(x.detach()[:, None] - grid).abs().argmin(1)]
    torch.testing.assert_close(y.detach(), nearest, rtol=0, atol=1e-12)
    assert len(y.unique()) <= 2**bits
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, (x.abs() < 1).double())
    assert levels(x.detach().bfloat16(), bits).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [1, 2])
def test_gradient_survives_compilation(bits: int, dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    x = torch.randn(64, dtype=dtype, requires_grad=True)
    compiled = torch.compile(lambda x: levels_ste(x, bits), fullgraph=True, backend="aot_eager")
    y = compiled(x)
    assert torch.equal(y, levels(x.detach(), bits))
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, (x.abs() < 1).to(dtype))


def test_gradient_of_the_reference_survives_compilation() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 5, 5, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True)
    compiled = torch.compile(binary_conv2d_reference, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(binary_conv2d_reference(x, weight).square().sum(), (x, weight))
    found = torch.autograd.grad(compiled(x, weight).square().sum(), (x, weight))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
