"""The last number of every range: sums at their largest, even kernels, numbers next to 0 and to infinity."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from convswap.ops.binary_conv import (
    PackedBinaryChain,
    PackedBinaryConv2d,
    binary_pack,
    chain,
    native_calls,
    pack_activations,
    path_names,
)
from convswap.ops.binary_conv.layer_geometry import LayerGeometry


@pytest.fixture(params=[*path_names(), "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each path of this machine in turn, forced."""
    monkeypatch.setenv(native_calls.VARIABLE, request.param)
    return str(request.param)


def ends(channels: int, groups: int) -> Tensor:
    """Three pixels of +1, of -1, and of both, that a 1 x 1 kernel sees one by one."""
    x = torch.ones(1, channels, 1, 3)
    x[..., 1] = -1
    x.unflatten(1, (groups, -1))[:, :, : channels // groups // 2, :, 2] = -1
    return x


@pytest.mark.parametrize("groups", [1, 2])
def test_a_chain_decides_at_the_largest_sum(path: str, groups: int) -> None:
    """The bias lets only the largest sum, or all but the smallest, be positive: no threshold may lie beyond reach."""
    channels = 128
    largest = channels // groups
    for bias in (-largest, largest - 1):
        first = PackedBinaryConv2d.from_weight(
            torch.ones(channels, largest, 1, 1), bias=torch.full((channels,), float(bias)), groups=groups
        )
        second = PackedBinaryConv2d.from_weight(torch.ones(8, channels, 1, 1))
        x = ends(channels, groups)
        joined, apart = PackedBinaryChain([first, second])(x), nn.Sequential(first, second)(x)
        assert torch.equal(joined, apart)
        assert len({int(y) for y in apart[0, 0, 0]}) == 2


@pytest.mark.parametrize("groups", [1, 2])
def test_the_largest_sum_of_a_chain(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kH kW in/groups."""
    seen: list[int] = []
    real = chain.dot_thresholds
    monkeypatch.setattr(chain, "dot_thresholds", lambda *given: (seen.append(given[-1]), real(*given))[1])
    first = PackedBinaryConv2d.from_weight(torch.randn(128, 128 // groups, 3, 2), groups=groups)
    PackedBinaryChain([first, PackedBinaryConv2d.from_weight(torch.randn(8, 128, 1, 1))])
    assert seen == [3 * 2 * 128 // groups]


@pytest.mark.parametrize(
    ("kernel", "dilation", "padding"),
    [
        (2, 1, (0, 1, 0, 1)),
        (4, 1, (1, 2, 1, 2)),
        ((2, 3), 1, (1, 1, 0, 1)),
        ((3, 2), (2, 3), (1, 2, 2, 2)),
        (1, 1, (0, 0, 0, 0)),
    ],
)
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_same_padding_puts_the_odd_pixel_behind(
    kernel: int | tuple[int, int], dilation: int | tuple[int, int], padding: tuple[int, ...], mode: str
) -> None:
    """As `nn.Conv2d` does."""
    layer = LayerGeometry.of(70, 8, kernel, 1, "same", dilation, 1, mode)
    assert (layer.padding if mode == "zeros" else layer.border) == padding
    torch.manual_seed(0)
    conv = nn.Conv2d(70, 8, kernel, padding="same", dilation=dilation, padding_mode=mode, bias=False)
    conv.weight.data = conv.weight.data.sign()
    packed = PackedBinaryConv2d.from_weight(conv.weight, padding="same", dilation=dilation, padding_mode=mode)
    x = torch.randn(2, 70, 6, 7).sign()
    assert torch.equal(packed(x), conv(x).round())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float16], ids=str)
def test_numbers_next_to_each_other_are_told_apart(path: str, dtype: torch.dtype) -> None:
    """The smallest numbers around 0, the largest, and both neighbours of each threshold."""
    info, inf = torch.finfo(dtype), torch.tensor(float("inf"), dtype=dtype)
    numbers = [0, info.tiny, -info.tiny, 1, -1, info.max, info.min, float("inf"), -float("inf")]
    bounds = torch.tensor(numbers, dtype=dtype)
    x = torch.stack([torch.nextafter(bounds, -inf), bounds, torch.nextafter(bounds, inf)])
    layouts = torch.contiguous_format, torch.channels_last
    for width, layout in itertools.product((1, 15, 16, 17, 33), layouts):  # vectors hold 16 pixels
        images = x[..., None, None].expand(3, 9, 2, width).contiguous(memory_format=layout)
        for threshold in (None, bounds):
            words = binary_pack(images, threshold, None, 1)
            expected = images >= (0 if threshold is None else threshold[:, None, None])
            assert torch.equal(words, pack_activations(expected.float() - 0.5)), (width, layout)
