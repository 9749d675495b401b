"""A batch of no images: every operator on every path answers with the right shape, and gradients of 0."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convswap.ops.binary_conv import (
    PackedBinaryChain,
    PackedBinaryConv2d,
    binary_conv2d,
    binary_conv2d_reference,
    binary_conv2d_sign,
    binary_pack,
    binary_to_nchw,
    native_calls,
    pack_weight,
    path_names,
)
from convswap.ops.dendritic import dendritic_conv2d, dendritic_conv2d_reference, native

BINARY_PATHS = [*path_names(), "torch", ""]
DENDRITIC_PATHS = [*(name for name, code in native.PATHS.items() if native._has(code)), "torch", ""]
LAYOUTS = torch.contiguous_format, torch.channels_last
WHERE = [2, 1], [1, 0, 1, 1], [1, 2], 2  # 70 -> 48 channels, 7 x 9 -> 4 x 6


@pytest.fixture(params=BINARY_PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each path of the binary convolution, forced; the empty name leaves the choice to the operator."""
    monkeypatch.setenv(native_calls.VARIABLE, request.param)
    return str(request.param)


def words_and_weight() -> tuple[Tensor, Tensor]:
    return binary_pack(torch.randn(0, 70, 7, 9), None, None, 2), pack_weight(torch.randn(48, 35, 3, 3), 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float16], ids=str)
def test_packing(path: str, dtype: torch.dtype) -> None:
    for layout in LAYOUTS:
        x = torch.randn(0, 70, 7, 9).to(dtype).to(memory_format=layout)
        words = binary_pack(x, torch.randn(70), torch.rand(70) < 0.5, 2)
        assert words.shape == (0, 7, 9, 2)
        assert words.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("relu", [False, True])
def test_binary_convolution_and_its_gradients(path: str, relu: bool, dtype: torch.dtype) -> None:
    leaves = [torch.randn(shape, dtype=dtype).requires_grad_() for shape in ((48,), (48,), (0, 4, 6))]
    y = binary_conv2d(*words_and_weight(), *leaves, None, 70, 48, *WHERE, relu)
    expected = binary_conv2d_reference(torch.randn(0, 70, 7, 9), torch.randn(48, 35, 3, 3), None, None, None, *WHERE)
    assert y.shape == expected.shape == (0, 48, 4, 6)
    assert y.dtype == dtype
    for gradient, leaf in zip(torch.autograd.grad(y.sum(), leaves), leaves, strict=True):
        assert torch.equal(gradient, torch.zeros_like(leaf))


def test_binary_convolution_with_signs(path: str) -> None:
    threshold = torch.zeros(48, dtype=torch.int32)
    bits = binary_conv2d_sign(*words_and_weight(), threshold, threshold.bool(), None, 70, 48, *WHERE)
    assert bits.shape == (0, 4, 6, 1)
    assert bits.dtype == torch.int64


def test_copy_to_channels_first(path: str) -> None:
    y = torch.randn(0, 5, 4, 6).to(memory_format=torch.channels_last).requires_grad_()
    found = binary_to_nchw(y)
    assert found.shape == y.shape
    assert torch.autograd.grad(found.sum(), y)[0].shape == y.shape


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1, "expand": "once"},
        {"padding": "same", "dilation": 2, "input_scale": "K"},
        {"padding": 1, "input_scale": "K", "groups": 2},
        {"padding": 1, "padding_mode": "reflect", "relu": True},
        {"padding": 1, "padding_mode": "circular", "stride": 2},
    ],
    ids=str,
)
def test_packed_modules(path: str, options: dict[str, Any]) -> None:
    norm = nn.BatchNorm2d(70).eval()
    packed = PackedBinaryConv2d.from_weight(
        torch.randn(48, 70 // options.get("groups", 1), 3, 3), torch.randn(48), torch.randn(48), norm=norm, **options
    )
    for layout in LAYOUTS:
        x = torch.randn(2, 70, 7, 9).to(memory_format=layout)
        assert packed(x[:0]).shape == (0, *packed(x).shape[1:])


def test_chains(path: str) -> None:
    first, second = (
        PackedBinaryConv2d.from_weight(torch.randn(out, channels, 3, 3), padding=1)
        for channels, out in ((70, 48), (48, 9))
    )
    assert PackedBinaryChain([first, second])(torch.randn(0, 70, 7, 9)).shape == (0, 9, 7, 9)


@pytest.mark.parametrize("name", DENDRITIC_PATHS)
@pytest.mark.parametrize("tapwise", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_dendritic_convolution_and_its_gradients(
    name: str, tapwise: bool, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native.VARIABLE, name)
    weight = torch.randn(12, 3, 3, 2)
    x, bias = torch.randn(0, 6, 7, 9).to(memory_format=layout), torch.randn(weight.shape if tapwise else (12, 3))
    leaves = [t.requires_grad_() for t in (x, weight, bias, torch.randn(12))]
    geometry = (2, 1), (1, 0, 1, 1), (1, 2), 2
    y, expected = dendritic_conv2d(*leaves, *geometry), dendritic_conv2d_reference(*leaves, *geometry)
    assert y.shape == expected.shape
    assert y.shape[0] == 0
    for gradient, leaf in zip(torch.autograd.grad(y.sum(), leaves), leaves, strict=True):
        assert torch.equal(gradient, torch.zeros_like(leaf))
    forward = native.forward(x.detach(), weight, bias, None, *geometry)  # also where nobody asks `why_not`
    found = native.backward(forward, x.detach(), weight, bias, *geometry, (True, True, True))
    assert [None if t is None else t.shape for t in found] == [leaf.shape for leaf in leaves[:3]]
    assert not any(t.any() for t in found if t is not None)
