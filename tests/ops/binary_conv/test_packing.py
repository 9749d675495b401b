"""Bits and thresholds: layouts written out, every stride and precision, folded BatchNorms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from convswap.errors import FusionError
from convswap.ops import native
from convswap.ops.binary_conv import (
    batch_norm_threshold,
    binary_pack,
    dot_thresholds,
    pack_activations,
    pack_weight,
    signs,
    unpack_activations,
    unpack_weight,
)

INF, NAN = float("inf"), float("nan")


def bit(words: Tensor, index: int) -> int:
    return int(words.flatten()[index // 64]) >> index % 64 & 1


def test_layout_of_activations() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 2 * 70, 3, 4)
    words = pack_activations(x, groups=2)
    assert words.shape == (2, 3, 4, 4)
    for image, group, channel, row, column in [(0, 0, 0, 0, 0), (1, 0, 63, 2, 3), (1, 1, 64, 1, 2), (0, 1, 69, 2, 0)]:
        pixel = words[image, row, column, group * 2 : group * 2 + 2]
        assert bit(pixel, channel) == (x[image, group * 70 + channel, row, column] >= 0)
    assert (words[..., 1::2] >> 6 == 0).all()  # the bits beyond 70 channels


def test_layout_of_weights() -> None:
    torch.manual_seed(0)
    weight = torch.randn(2 * 11, 70, 3, 2)
    packed = pack_weight(weight, 2)
    assert packed.shape == (2, 2, 3, 2, 2, 8)
    for group, o, channel, u, v in [(0, 0, 0, 0, 0), (1, 10, 69, 2, 1), (1, 7, 64, 1, 0), (0, 9, 63, 0, 1)]:
        assert bit(packed[group, o // 8, u, v, :, o % 8], channel) == (weight[group * 11 + o, channel, u, v] >= 0)
    assert (packed[:, 1, ..., 3:] == 0).all()
    assert packed.numel() * 64 >= weight.numel()
    assert torch.equal(unpack_weight(packed, 22, 140), signs(weight))


@given(
    st.integers(1, 3), st.integers(1, 140), st.integers(0, 3), st.integers(1, 9), st.integers(1, 40), st.integers(0, 5),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.float16]), st.booleans(), st.booleans(),
    st.integers(0, 2**16),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_operator_packs_every_layout(
    groups: int, channels: int, images: int, rows: int, columns: int, layout: int, dtype: torch.dtype,
    threshold: bool, flip: bool, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    shape = images, groups * channels, rows, columns
    x = torch.randn(shape).mul_(2).round_().to(dtype)  # halves of numbers meet their thresholds
    if layout == 1:
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == 2:
        x = torch.randn(images, groups * channels, rows, 2 * columns).to(dtype)[..., ::2]
    elif layout == 3:
        x = torch.randn(images, rows, groups * channels, columns).to(dtype).transpose(1, 2)
    elif layout == 4:  # neither aligned to a vector, nor the pixels together
        x = (
            torch.randn(images * groups * channels * rows * columns + 1)
            .to(dtype)[1:]
            .view(columns, rows, shape[1], images)
        )
        x = x.permute(3, 2, 1, 0)
    elif layout == 5:
        x = torch.randn(1, groups * channels, 1, 1).to(dtype).expand(shape)
    t = torch.randn(groups * channels).mul_(2).round_() if threshold else None
    f = torch.rand(groups * channels) < 0.5 if flip else None
    words = binary_pack(x, t, f, groups)
    assert torch.equal(words, pack_activations(x, t, f, groups))
    compared = x.double() >= (0 if t is None else t.double()[:, None, None])
    expected = compared if f is None else compared ^ f[:, None, None]
    assert torch.equal(unpack_activations(words, groups * channels, groups) > 0, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float16])
@pytest.mark.parametrize("last", [False, True])
def test_special_numbers_are_packed_as_documented(dtype: torch.dtype, last: bool) -> None:
    x = torch.tensor([0.0, -0.0, INF, -INF, NAN, 1.0, -1.0], dtype=dtype).reshape(1, 7, 1, 1).expand(1, 7, 17, 3)
    x = x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    flip = torch.ones(7, dtype=torch.bool)
    plain, turned = binary_pack(x, None, None, 1), binary_pack(x, None, flip, 1)
    assert {int(word) for word in plain.flatten()} == {0b0100111}
    assert {int(word) for word in turned.flatten()} == {0b1011000}
    always = binary_pack(x, torch.full((7,), -INF), None, 1)
    assert {int(word) for word in always.flatten()} == {0b1101111}  # all but NaN


def test_wrong_arguments_are_named() -> None:
    x = torch.randn(1, 6, 2, 2)
    with pytest.raises(ValueError, match="threshold"):
        binary_pack(x, torch.zeros(5), None, 1)
    with pytest.raises(ValueError, match="flip"):
        binary_pack(x, None, torch.zeros(7, dtype=torch.bool), 1)
    with pytest.raises(ValueError, match="groups=4"):
        binary_pack(x, None, None, 4)
    with pytest.raises(ValueError, match="floating"):
        binary_pack(x.int(), None, None, 1)


def random_norm(channels: int, dtype: torch.dtype, seed: int) -> nn.BatchNorm2d:
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(channels, dtype=dtype).eval()
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
        norm.weight[:6] = torch.tensor([0.0, 0.0, 0.0, 1e-30, -1e-30, -0.0])
        norm.bias[:3] = torch.tensor([0.5, -0.5, 0.0])
        norm.bias[5] = -1.0
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.01, 3)
    return norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_thresholds_answer_as_the_batch_norm_does(dtype: torch.dtype) -> None:
    norm = random_norm(200, dtype, 3)
    threshold, flip = batch_norm_threshold(norm)
    assert threshold.dtype == dtype
    assert flip.dtype == torch.bool
    assert flip.any()
    assert not flip.all()
    assert not flip[[0, 2]].any()  # a slope of 0: constant by the shift's sign
    assert flip[[1, 5]].all()
    assert (threshold[[0, 1, 2, 5]] == -INF).all()
    near = threshold.clamp(-1e30, 1e30)
    around = [near]
    for direction in (INF, -INF):
        step = near
        for _ in range(3):
            step = torch.nextafter(step, torch.full_like(step, direction))
            around.append(step)
    numbers = torch.stack([*around, *torch.randn(16, 200, dtype=dtype)])
    x = numbers.T.reshape(1, 200, -1, 1)
    expected = norm(x) >= 0
    assert torch.equal((x >= threshold[:, None, None]) ^ flip[:, None, None], expected)


def test_thresholds_without_statistics_are_refused() -> None:
    with pytest.raises(FusionError, match="running statistics"):
        batch_norm_threshold(nn.BatchNorm2d(4, track_running_stats=False))


def test_thresholds_on_meta() -> None:
    threshold, flip = batch_norm_threshold(nn.BatchNorm2d(4, device="meta"))
    assert threshold.is_meta
    assert flip.shape == (4,)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_thresholds_of_sums(relu: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    outputs, largest = 300, 50
    scale, bias = torch.randn(outputs).to(dtype), torch.randn(outputs).mul_(10).to(dtype)
    scale[:4] = torch.tensor([0.0, 0.0, -0.0, 1e-8])
    threshold, flip = torch.randn(outputs), torch.rand(outputs) < 0.5
    threshold[-10:-5], threshold[-5:] = -INF, INF
    t, f = dot_thresholds(scale, bias, relu, threshold, flip, largest)
    assert t.dtype == torch.int32
    dots = torch.arange(-largest, largest + 1)[:, None]
    wide = torch.promote_types(dtype, torch.float32)
    y = dots.to(wide) * scale.to(wide) + bias.to(wide)
    y = (y.relu() if relu else y).to(dtype).to(wide)
    assert torch.equal((dots >= t) ^ f, (y >= threshold) ^ flip)


def test_native_packing_is_what_was_tested() -> None:
    if native.library() is None:
        pytest.skip(str(native.why_missing()))
    assert native.library().convswap_binary_pack is not None  # type: ignore[union-attr]
