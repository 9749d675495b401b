"""Dendritic convolution kernels, interpreted on a CPU: tests/ops/test_triton_interpreted.py runs these checks."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from convswap.ops.dendritic import chunked, dendritic_conv2d_reference
from convswap.ops.dendritic import triton_kernels as tk
from convswap.ops.memory_format import memory_format

EXACT = {"rtol": 0, "atol": 1e-11}


def drawn(seed: int, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], tuple[Any, ...]]:
    """Tensors (x, weight, bias, output bias) and (stride, padding, dilation, groups)."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    groups, kernel = draw.choice([1, 1, 2, 3]), (draw.randint(1, 3), draw.randint(1, 4))
    stride, dilation = (draw.randint(1, 3), draw.randint(1, 3)), (draw.randint(1, 2), draw.randint(1, 2))
    padding = tuple(draw.randint(0, 2) for _ in range(4))
    size = [d * (k - 1) + draw.randint(1, 4) for d, k in zip(dilation, kernel, strict=True)]
    x = torch.randn(draw.randint(1, 2), groups * draw.randint(1, 5), *size, dtype=dtype)
    if seed % 2:
        x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(groups * draw.randint(1, 6), x.shape[1] // groups, *kernel, dtype=dtype)
    bias = torch.randn(weight.shape if draw.random() < 0.5 else weight.shape[:2], dtype=dtype)
    return [x, weight, bias, torch.randn(len(weight), dtype=dtype)], (stride, padding, dilation, groups)


@pytest.mark.parametrize("seed", range(24))
def test_values(seed: int) -> None:
    tensors, geometry = drawn(seed)
    if seed % 3 == 0:
        tensors[3] = None  # type: ignore[call-overload]
    got = tk.dendritic_forward_cuda(*tensors, *geometry)
    expected = dendritic_conv2d_reference(*tensors, *geometry)
    torch.testing.assert_close(got, expected, **EXACT)
    assert got.stride() == chunked.forward(*tensors, *geometry).stride()


@pytest.mark.parametrize("seed", range(24))
def test_gradients(seed: int) -> None:
    (x, weight, bias, _), geometry = drawn(seed)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    expected = dendritic_conv2d_reference(*leaves, None, *geometry)
    gradient = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, leaves, gradient)
    with torch.no_grad():
        got = tk.dendritic_backward_cuda(gradient, x, weight, bias, *geometry, (True, True, True))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    assert got[0] is not None
    assert got[0].stride() == torch.empty_like(x, memory_format=memory_format(x)).stride()


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True), (False,) * 3])
def test_only_what_is_asked_for(needs: tuple[bool, bool, bool]) -> None:
    (x, weight, bias, _), geometry = drawn(8)
    y = tk.dendritic_forward_cuda(x, weight, bias, None, *geometry)
    gradient = torch.randn_like(y)
    whole = tk.dendritic_backward_cuda(gradient, x, weight, bias, *geometry, (True, True, True))
    some = tk.dendritic_backward_cuda(gradient, x, weight, bias, *geometry, needs)
    for one, other, need in zip(some, whole, needs, strict=True):
        assert (one is not None) == need
        assert one is None or torch.equal(one, other)


@pytest.mark.parametrize("tapwise", [False, True])
def test_many_parts_and_blocks_give_the_same_bits_twice(tapwise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """More outputs, inputs, taps and pixels than one block of any kind holds; sums cut into parts."""
    monkeypatch.setattr(tk, "_LEAST_PART", 4)
    torch.manual_seed(0)
    x, weight = torch.randn(1, 33, 3, 3), torch.randn(17, 33, 5, 4)
    bias = torch.randn(weight.shape if tapwise else weight.shape[:2])
    geometry = (1, 1), (1, 2, 2, 2), (1, 1), 1
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    expected = dendritic_conv2d_reference(*leaves, None, *geometry)
    gradient = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, leaves, gradient)
    with torch.no_grad():
        y = tk.dendritic_forward_cuda(x, weight, bias, None, *geometry)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-4)
        first = tk.dendritic_backward_cuda(gradient, x, weight, bias, *geometry, (True, True, True))
        second = tk.dendritic_backward_cuda(gradient, x, weight, bias, *geometry, (True, True, True))
    for one, again, other in zip(first, second, wanted, strict=True):
        assert torch.equal(one, again)
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_narrow_weights_round_activations_once() -> None:
    """As under autocast: input and biases in float32, weight in bfloat16; their sum keeps its digits."""
    torch.manual_seed(0)
    x, weight = 1 + 1e-3 * torch.rand(2, 4, 4, 4), torch.randn(3, 4, 3, 3).bfloat16()
    bias = torch.full((3, 4), -1.0)
    geometry = (1, 1), (1, 1, 1, 1), (1, 1), 1
    exact = dendritic_conv2d_reference(x.double(), weight.double(), bias.double(), None, *geometry)
    y = tk.dendritic_forward_cuda(x, weight, bias, None, *geometry)
    assert y.dtype == torch.bfloat16
    assert (y.double() - exact).abs().max() < 0.03 * exact.abs().max()
    found = tk.dendritic_backward_cuda(torch.ones_like(y), x, weight, bias, *geometry, (True, True, True))
    assert [t.dtype for t in found if t is not None] == [torch.float32, torch.bfloat16, torch.float32]
    same = chunked.backward(torch.ones_like(y), x, weight, bias, *geometry, (True, True, True))
    for one, other in zip(found, same, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=0.03, atol=0.03 * other.float().abs().max().item())


def test_nan_stays_nan() -> None:
    (x, weight, bias, _), geometry = drawn(8)
    expected = dendritic_conv2d_reference(x * torch.nan, weight, bias, None, *geometry)
    assert expected.isnan().any()
    torch.testing.assert_close(
        tk.dendritic_forward_cuda(x * torch.nan, weight, bias, None, *geometry), expected, equal_nan=True
    )


def test_nothing_in_nothing_out() -> None:
    (x, weight, bias, _), geometry = drawn(8)
    y = tk.dendritic_forward_cuda(x[:0], weight, bias, None, *geometry)
    assert y.shape[0] == 0
    dx, dw, db = tk.dendritic_backward_cuda(y, x[:0], weight, bias, *geometry, (True, True, True))
    assert dx.shape == x[:0].shape
    assert not dw.any()
    assert not db.any()


def test_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    (x, weight, bias, _), _ = drawn(8)
    assert tk.why_not(x, weight, bias) is None
    assert "int64" in str(tk.why_not(x.long(), weight, bias))
    monkeypatch.setenv("CONVSWAP_TRITON", "0")
    assert "CONVSWAP_TRITON" in str(tk.why_not(x, weight, bias))
