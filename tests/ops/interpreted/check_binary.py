"""Binary convolution kernels, interpreted on a CPU: tests/ops/test_triton_interpreted.py runs these checks."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from convswap.ops.binary_conv import triton_kernel as tk

TENSOR, POPCOUNT = tk.Form("tensor", 32, 32, 2, 4, 2), tk.Form("popcount", 32, 8, 2, 4, 2)


def bits_to_words(bits: Tensor) -> Tensor:
    """(..., n) of 0 and 1 as (..., ceil(n / 64)) words, the first bit lowest: written out, not shared with the code."""
    count = math.ceil(bits.shape[-1] / 64)
    padded = F.pad(bits.to(torch.int64), (0, 64 * count - bits.shape[-1])).unflatten(-1, (count, 64))
    return (padded << torch.arange(64)).sum(-1)


def packed_activations(signs: Tensor, groups: int) -> Tensor:
    """Signs (N, C, H, W) of +-1 as words (N, H, W, groups * words)."""
    return bits_to_words((signs > 0).permute(0, 2, 3, 1).unflatten(-1, (groups, -1))).flatten(3)


def packed_weight(signs: Tensor, groups: int) -> Tensor:
    """Signs (O, C / groups, kh, kw) as words [groups][blocks][kh][kw][words][8]."""
    per_group = signs.unflatten(0, (groups, -1))
    blocks = math.ceil(per_group.shape[1] / 8)
    words = bits_to_words((per_group > 0).permute(0, 1, 3, 4, 2))  # group, output, kh, kw, words
    words = F.pad(words, (0, 0, 0, 0, 0, 0, 0, 8 * blocks - words.shape[1]))
    return words.unflatten(1, (blocks, 8)).permute(0, 1, 3, 4, 5, 2).contiguous()


class Case:
    """A drawn geometry with its signs and the exact sums."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        torch.manual_seed(seed)
        self.groups = draw.choice([1, 1, 2, 3])
        per_group = draw.choice([1, 5, 31, 32, 33, 63, 64, 65, 100, 130])
        outputs = draw.choice([1, 3, 8, 9, 16, 40])
        kernel = draw.randint(1, 3), draw.randint(1, 3)
        self.stride = draw.randint(1, 3), draw.randint(1, 3)
        self.dilation = draw.randint(1, 2), draw.randint(1, 2)
        self.padding = tuple(draw.randint(0, 2) for _ in range(4))
        size = [d * (k - 1) + draw.randint(1, 5) for d, k in zip(self.dilation, kernel, strict=True)]
        self.x = torch.randn(draw.randint(1, 2), per_group * self.groups, *size)
        weight = torch.randn(outputs * self.groups, per_group, *kernel)
        signs = torch.where(self.x >= 0, 1.0, -1.0)
        self.words = packed_activations(signs, self.groups)
        self.weight = packed_weight(weight, self.groups)
        w = torch.where(weight > 0, 1.0, -1.0)
        padded = F.pad(signs, self.padding)
        self.dot = F.conv2d(padded, w, None, self.stride, 0, self.dilation, self.groups)
        geometry = self.x.shape[1], len(weight), self.stride, self.padding, self.dilation, self.groups
        self.geometry = geometry
        self.outputs = len(weight)


@pytest.mark.parametrize("form", [TENSOR, POPCOUNT], ids=lambda form: form.name)
@pytest.mark.parametrize("seed", range(16))
def test_float_results_are_exact(seed: int, form: tk.Form) -> None:
    case = Case(seed)
    scale, bias = torch.rand(case.outputs) + 0.5, torch.randn(case.outputs)
    relu = seed % 3 == 0
    factor = torch.rand(case.dot.shape[0], *case.dot.shape[2:]) if seed % 4 == 1 else None
    expected = case.dot * scale[:, None, None]
    if factor is not None:
        expected = expected * factor[:, None]
    if seed % 2:
        expected = expected + bias[:, None, None]
    if relu:
        expected = expected.relu()
    got = tk.conv2d(case.words, case.weight, scale, bias if seed % 2 else None, factor, *case.geometry, relu, form)
    assert torch.equal(got, expected)
    assert got.dtype == torch.float32
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("form", [TENSOR, POPCOUNT], ids=lambda form: form.name)
@pytest.mark.parametrize("seed", range(100, 112))
def test_signs_are_exact(seed: int, form: tk.Form) -> None:
    case = Case(seed)
    limit = torch.randint(-9, 9, (case.outputs,), dtype=torch.int32)
    flip = torch.rand(case.outputs) > 0.5
    bits = (case.dot >= limit[:, None, None]) ^ flip[:, None, None]
    expected = bits_to_words(bits.permute(0, 2, 3, 1))
    got = tk.conv2d_sign(case.words, case.weight, limit, flip, *case.geometry, form)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (64, 1), (130, 2), (70, 1)])
def test_packing(channels: int, groups: int, dtype: torch.dtype, layout: torch.memory_format) -> None:
    torch.manual_seed(channels)
    x = torch.randn(2, channels, 3, 5).to(dtype).contiguous(memory_format=layout)
    special = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0], dtype=dtype)
    x[0, 0, 0] = special
    threshold, flip = x[1, :, 1, 2].clone(), torch.rand(channels) > 0.5  # some values equal their threshold
    plain = bits_to_words((x >= 0).permute(0, 2, 3, 1).unflatten(-1, (groups, -1))).flatten(3)
    assert torch.equal(tk.pack(x, None, None, groups), plain)
    above = (x >= threshold[:, None, None]) ^ flip[:, None, None]
    expected = bits_to_words(above.permute(0, 2, 3, 1).unflatten(-1, (groups, -1))).flatten(3)
    assert torch.equal(tk.pack(x, threshold, flip, groups), expected)


def test_chosen_form_is_exact_too() -> None:
    case = Case(7)
    scale = torch.ones(case.outputs)
    assert torch.equal(tk.conv2d(case.words, case.weight, scale, None, None, *case.geometry, False), case.dot)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", [TENSOR, POPCOUNT], ids=lambda form: form.name)
def test_scale_decides_the_precision(form: tk.Form, dtype: torch.dtype) -> None:
    case = Case(11)
    scale, bias = torch.rand(case.outputs).to(dtype), torch.randn(case.outputs)
    kind = torch.promote_types(dtype, torch.float32)
    expected = (case.dot.to(kind) * scale.to(kind)[:, None, None] + bias.to(kind)[:, None, None]).to(dtype)
    got = tk.conv2d(case.words, case.weight, scale, bias, None, *case.geometry, False, form)
    assert got.dtype == dtype
    # The interpreter cuts bfloat16 off instead of rounding; a GPU rounds.
    torch.testing.assert_close(got, expected, rtol=0 if dtype == torch.float64 else 2**-7, atol=0)


@pytest.mark.parametrize(
    "shape", [(64, 64, 9, 1, 56), (128, 128, 9, 1, 28), (512, 512, 9, 1, 7), (96, 10, 1, 1, 8), (32, 64, 9, 4, 8)]
)
@pytest.mark.parametrize("images", [1, 16, 256])
def test_a_form_that_fits_is_chosen(shape: tuple[int, ...], images: int) -> None:
    channels, outputs, taps, groups, side = shape
    form = tk.choose(images * side * side, channels, outputs, taps, groups)
    assert 2 * math.ceil(channels / 64) % form.step == 0
    case = images * side * side, channels, outputs, taps, groups
    assert all(tk.estimate(form, *case) <= tk.estimate(other, *case) for other in tk.FORMS if other.step == 2)
    if images == 256 and outputs >= 64:
        assert form.name == "tensor"


def test_nothing_in_nothing_out() -> None:
    case = Case(3)
    scale = torch.ones(case.outputs)
    y = tk.conv2d(case.words[:0], case.weight, scale, None, None, *case.geometry, False)
    assert y.shape == (0, *case.dot.shape[1:])
    assert tk.pack(case.x[:0], None, None, case.groups).shape == case.words[:0].shape


def test_nan_scale_stays_nan_under_relu() -> None:
    case = Case(5)
    scale = torch.full((case.outputs,), math.nan)
    assert tk.conv2d(case.words, case.weight, scale, None, None, *case.geometry, True, TENSOR).isnan().all()
