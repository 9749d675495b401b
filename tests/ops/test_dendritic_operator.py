"""The chunked operator against its reference: values, gradients, bounded buffers, counted operations."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from convswap.ops.dendritic import (
    chunked,
    dendritic_conv2d,
    dendritic_conv2d_reference,
    elementwise_operations,
    register_flops,
    tiling,
)


@st.composite
def calls(draw: st.DrawFn) -> tuple[list[Tensor | None], dict[str, Any]]:
    """Tensors (x, weight, bias, output bias) and the geometry."""
    whole = functools.partial(st.integers, 1)
    groups, kernel = draw(st.sampled_from([1, 1, 2, 3])), (draw(whole(4)), draw(whole(4)))
    stride, dilation = (draw(whole(3)), draw(whole(3))), (draw(whole(2)), draw(whole(2)))
    padding = tuple(draw(st.integers(0, 3)) for _ in range(4))
    size = [draw(st.integers(d * (k - 1) + 1, 10)) for d, k in zip(dilation, kernel, strict=True)]
    torch.manual_seed(draw(st.integers(0, 2**16)))
    make = functools.partial(torch.randn, dtype=torch.float64)
    x = make(draw(st.integers(0, 3)), groups * draw(whole(3)), *size)
    if draw(st.booleans()):
        x = x.to(memory_format=torch.channels_last)
    weight = make(groups * draw(whole(12)), x.shape[1] // groups, *kernel)
    bias = make(weight.shape if draw(st.booleans()) else weight.shape[:2])
    tensors = [x, weight, bias, make(len(weight)) if draw(st.booleans()) else None]
    return tensors, {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


def leaves(tensors: list[Tensor | None]) -> list[Tensor]:
    return [t.requires_grad_() for t in tensors if t is not None]


@given(call=calls(), budget=st.sampled_from([3000, 4 << 20]))
@settings(max_examples=60, deadline=None)
def test_equals_the_reference_in_value_and_gradients(call: Any, budget: int) -> None:
    tensors, geometry = call
    inputs = leaves(tensors)
    with pytest.MonkeyPatch.context() as patch:  # small budgets cut images and outputs apart
        patch.setattr(tiling, "_CPU_BYTES", budget)
        patch.setattr(tiling, "_LEAST_BYTES", budget)
        value = dendritic_conv2d(*tensors, **geometry)
        expected = dendritic_conv2d_reference(*tensors, **geometry)
        assert value.shape == expected.shape
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)
        if value.numel():
            factor = torch.randn_like(expected)
            for got, wanted in zip(
                torch.autograd.grad(value, inputs, factor), torch.autograd.grad(expected, inputs, factor), strict=True
            ):
                torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("tapwise", [False, True])
def test_gradcheck(tapwise: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 4, 5, 4, dtype=torch.float64), torch.randn(6, 2, 3, 2, dtype=torch.float64)
    bias = torch.randn(weight.shape if tapwise else weight.shape[:2], dtype=torch.float64)
    inputs = [t.requires_grad_() for t in (x, weight, bias, torch.randn(6, dtype=torch.float64))]
    geometry = (2, 1), (1, 0, 2, 1), (1, 2), 2
    assert torch.autograd.gradcheck(lambda *t: dendritic_conv2d(*t, *geometry), inputs)


@pytest.mark.parametrize("tapwise", [False, True])
def test_torch_finds_the_operator_in_order(tapwise: bool) -> None:
    """Schema, gradient registration and shapes without data agree with what is computed."""
    x, weight = torch.randn(2, 4, 6, 6), torch.randn(6, 4, 3, 3)
    bias = torch.randn(weight.shape if tapwise else weight.shape[:2])
    for given_x in (x, x.to(memory_format=torch.channels_last)):
        tensors = [t.clone().requires_grad_() for t in (given_x, weight, bias, torch.randn(6))]
        geometry = [2, 1], [1, 0, 1, 1], [1, 1], 1
        torch.library.opcheck(torch.ops.convswap.dendritic_conv2d.default, (*tensors, *geometry))


@pytest.mark.parametrize("asked", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_the_gradients_asked_for_are_formed(asked: tuple[bool, ...]) -> None:
    tensors = [torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3), torch.randn(4, 3)]
    whole = [t.clone().requires_grad_() for t in tensors]
    dendritic_conv2d(*whole).sum().backward()
    some = [t.clone().requires_grad_(need) for t, need in zip(tensors, asked, strict=True)]
    dendritic_conv2d(*some).sum().backward()
    for one, other, need in zip(some, whole, asked, strict=True):
        assert (one.grad is not None) == need
        if need:
            torch.testing.assert_close(one.grad, other.grad)


class Largest(TorchDispatchMode):
    """The largest tensor with memory of its own that is made, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


SHAPES = [
    ((8, 16, 32, 32), (16, 16, 3, 3), 1, 1),
    ((2, 64, 28, 28), (64, 64, 3, 3), 1, 1),
    ((8, 32, 24, 24), (64, 32, 3, 3), 2, 1),
    ((4, 64, 14, 14), (64, 1, 3, 3), 1, 64),
    ((4, 64, 14, 14), (128, 64, 1, 1), 1, 1),
]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("tapwise", [False, True])
@pytest.mark.parametrize(("x_shape", "w_shape", "stride", "groups"), SHAPES, ids=str)
def test_nothing_larger_than_the_maps_is_ever_made(
    x_shape: Any, w_shape: Any, stride: int, groups: int, tapwise: bool, layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tensor exceeds input and output together; the (N, out, in, H, W) activations are many times larger."""
    monkeypatch.setattr(tiling, "_LEAST_BYTES", 0)  # the allowance for tiny layers would hide the rule
    x, weight = torch.randn(x_shape).to(memory_format=layout), torch.randn(w_shape)
    bias = torch.randn(w_shape if tapwise else w_shape[:2])
    margin = w_shape[2] // 2
    geometry = (stride, stride), (margin,) * 4, (1, 1), groups
    with torch.no_grad(), Largest() as made:
        y = chunked.forward(x, weight, bias, None, *geometry)
        forward, made.bytes = made.bytes, 0
        chunked.backward(torch.randn_like(y), x, weight, bias, *geometry, (True, True, True))
    sizes = [t.untyped_storage().nbytes() for t in (x, y, weight)]
    assert forward <= max(sizes)
    assert made.bytes <= sizes[0] + sizes[1]
    if groups == 1:
        assert 4 * x_shape[0] * w_shape[0] * w_shape[1] * y.shape[2] * y.shape[3] > 7 * (sizes[0] + sizes[1])


def test_the_reference_breaks_that_bound() -> None:
    """The measurement above sees what it should see."""
    x, weight, bias = torch.randn(2, 16, 14, 14), torch.randn(16, 16, 3, 3), torch.randn(16, 16)
    with torch.no_grad(), Largest() as made:
        dendritic_conv2d_reference(x, weight, bias)
    assert made.bytes >= 16 * x.untyped_storage().nbytes()


def test_saves_no_map_but_its_input_for_the_backward_pass() -> None:
    x = torch.randn(2, 8, 12, 12, requires_grad=True)
    weight, bias = torch.randn(8, 8, 3, 3, requires_grad=True), torch.randn(8, 8, requires_grad=True)
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        dendritic_conv2d(x, weight, bias)
    assert {t.data_ptr() for t in saved} <= {t.data_ptr() for t in (x, weight, bias)}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_flops_are_those_of_a_convolution(groups: int, device: str) -> None:
    register_flops()
    x = torch.randn(2, 4, 9, 8, device=device, requires_grad=True)
    weight = torch.randn(6, 4 // groups, 3, 3, device=device, requires_grad=True)
    bias = torch.randn(6, 4 // groups, device=device, requires_grad=True)
    geometry = (2, 2), (1, 1, 1, 1), (1, 1), groups
    counts = []
    for run in (
        lambda: dendritic_conv2d(x, weight, bias, None, *geometry),
        lambda: torch.nn.functional.conv2d(x, weight, None, 2, 1, 1, groups),
    ):
        with FlopCounterMode(display=False) as forward:
            y = run()
        with FlopCounterMode(display=False) as backward:
            y.sum().backward()
        counts.append((forward.get_total_flops(), backward.get_total_flops()))
    assert counts[0][0] == counts[1][0]
    assert counts[0][1] == 2 * counts[0][0]
    if groups == 1:  # torch's own formula counts the backward pass of grouped convolutions too high
        assert counts[0][1] == counts[1][1]
    assert counts[0][0] == 2 * 9 * 4 // groups * 6 * 2 * 5 * 4


def test_elementwise_operations_are_those_of_the_note() -> None:
    """One addition and one comparison a pair of channels and pixel: 2 Cin Cout H W beside 2 k² Cin Cout H W."""
    x, weight, same = (1, 16, 32, 32), (32, 16, 3, 3), {"padding": (1, 1, 1, 1)}
    pair = elementwise_operations(x, weight, weight[:2], **same)
    assert pair == (16 * 32 * 32 * 32,) * 2
    assert elementwise_operations(x, weight, weight, **same).additions == 9 * pair.additions
    assert elementwise_operations(x, (32, 16, 1, 1), (32, 16), (2, 2)).comparisons == pair.comparisons // 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_rounds_after_the_rectifier(dtype: torch.dtype) -> None:
    """Biases and input are added in float32: a sum much smaller than its terms keeps its digits."""
    torch.manual_seed(0)
    x, weight = 1 + 1e-3 * torch.rand(2, 8, 6, 6), torch.randn(4, 8, 3, 3)
    bias = torch.full((4, 8), -1.0).requires_grad_()
    exact = dendritic_conv2d_reference(x.double(), weight.double(), bias.double())
    with torch.autocast("cpu", dtype=dtype):
        y = dendritic_conv2d(x, weight, bias)
    assert y.dtype == dtype
    assert (y.double() - exact).abs().max() < 0.02 * exact.abs().max()
    y.float().sum().backward()
    assert bias.grad is not None
    assert bias.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((1, 3, 5, 5), (4, 2, 3, 3), (4, 2)), r"x of shape \(1, 3, 5, 5\)"),
        (((3, 5, 5), (4, 3, 3, 3), (4, 3)), "x of shape"),
        (((1, 3, 5, 5), (4, 3, 3, 3), (3, 4)), r"bias of shape \(3, 4\) .* \(4, 3\) or"),
        (((1, 3, 2, 5), (4, 3, 3, 3), (4, 3)), "too small for the kernel"),
        (((1, 3, 5, 5), (0, 3, 3, 3), (0, 3)), r"weight of shape \(0, 3, 3, 3\)"),
        (((1, 0, 5, 5), (4, 0, 3, 3), (4, 0)), r"weight of shape \(4, 0, 3, 3\)"),
        (((1, 3, 5, 5), (4, 3, 3), (4, 3)), r"weight of shape \(4, 3, 3\)"),
    ],
)
def test_shapes_that_do_not_belong_together_are_named(shapes: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dendritic_conv2d(*(torch.zeros(shape) for shape in shapes))
