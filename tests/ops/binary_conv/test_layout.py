"""`binary_to_nchw`: maps with the channels last, copied with the channels first."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from c_border import check_guards, guarded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from convswap.measure import cost
from convswap.ops import native
from convswap.ops.binary_conv import PackedBinaryConv2d, binary_to_nchw

sizes = st.tuples(st.integers(0, 3), st.integers(1, 70), st.integers(0, 9), st.integers(1, 9))


def last(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


@given(shape=sizes, threads=st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_it_is_the_copy(shape: tuple[int, ...], threads: int) -> None:
    y = last(shape)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = binary_to_nchw(y)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, y)
    assert found.is_contiguous()
    assert not y.numel() or found.data_ptr() != y.data_ptr()


@pytest.mark.skipif(native.library() is None, reason="no native library")
@given(shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 9), st.integers(1, 9)))
@settings(max_examples=100, deadline=None)
def test_the_kernel_writes_the_output_alone(shape: tuple[int, ...]) -> None:
    library = native.library()
    assert library is not None
    binary_to_nchw(last((1, 1, 1, 1)))  # declares the function
    y, (out, memory) = last(shape), guarded(shape, torch.float32)
    n, channels, rows, columns = shape
    assert not library.convswap_binary_to_nchw(y.data_ptr(), n, rows * columns, channels, out.data_ptr(), 2)
    assert torch.equal(out, y)
    check_guards(memory)
    assert library.convswap_binary_to_nchw(None, n, 1, 1, out.data_ptr(), 1)
    assert library.convswap_binary_to_nchw(y.data_ptr(), n, 0, 1, out.data_ptr(), 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_any_layout_and_precision(dtype: torch.dtype) -> None:
    whole = torch.randn(2, 6, 5, 8, dtype=dtype)
    for y in (whole, whole[..., ::2], whole.transpose(1, 2), whole.contiguous(memory_format=torch.channels_last)[1:]):
        found = binary_to_nchw(y)
        assert torch.equal(found, y)
        assert found.is_contiguous()


def test_all_that_torch_asks_of_an_operator() -> None:
    y = last((2, 9, 4, 3)).requires_grad_()
    torch.library.opcheck(binary_to_nchw, (y,))
    gradient = torch.randn(2, 9, 4, 3)
    (found,) = torch.autograd.grad(binary_to_nchw(y), y, gradient)
    assert torch.equal(found, gradient)


def test_a_layer_answers_in_the_layout_of_its_input() -> None:
    torch.manual_seed(0)
    layer = PackedBinaryConv2d.from_weight(torch.randn(24, 40, 3, 3), padding=1)
    x = torch.randn(2, 40, 6, 5)
    first, of_last = layer(x), layer(x.contiguous(memory_format=torch.channels_last))
    assert first.is_contiguous()
    assert of_last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(first, of_last)
    assert torch.equal(make_fx(layer)(x)(-x), layer(-x))  # a copy that is traced, not a constant
    copied, kept = cost(layer, x).counts, cost(layer, x.contiguous(memory_format=torch.channels_last)).counts
    assert copied == replace(kept, bytes_moved=kept.bytes_moved + 2 * first.nbytes)
