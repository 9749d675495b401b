"""Signs as bits: 64 channels an int64 word, bit 1 for +1. In plain torch, on any device.

The layouts are those of `csrc/binary_conv.h`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

WORD = 64
BLOCK = 8  # outputs whose weights lie together


def words_for(channels: int) -> int:
    """How many words hold the bits of this many channels.

    >>> words_for(64), words_for(65)
    (1, 2)
    """
    return -(-channels // WORD)


def _bits_of_a_byte(device: torch.device) -> Tensor:
    return torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=device)


def bits_to_words(bits: Tensor) -> Tensor:
    """(..., channels) of bool -> (..., words) of int64; missing channels are bit 0."""
    channels = bits.shape[-1]
    count = words_for(channels)
    padded = F.pad(bits.to(torch.uint8), (0, count * WORD - channels))
    octets = (padded.unflatten(-1, (count * 8, 8)) * _bits_of_a_byte(bits.device)).sum(-1, dtype=torch.uint8)
    return octets.contiguous().view(torch.int64)


def words_to_signs(words: Tensor, channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(..., words) of int64 -> (..., channels) of +1 and -1."""
    octets = words.contiguous().view(torch.uint8)
    set_ = octets.unsqueeze(-1).bitwise_and(_bits_of_a_byte(words.device)).ne(0).flatten(-2)[..., :channels]
    return set_.to(dtype).mul_(2).sub_(1)


def pack_activations(x: Tensor, threshold: Tensor | None = None, flip: Tensor | None = None, groups: int = 1) -> Tensor:
    """(N, C, H, W) numbers -> (N, H, W, groups * words) int64: bit = (x >= threshold) xor flip.

    Infinities compare as numbers do; NaN is below every threshold. Without a threshold it is 0, so -0.0 is +1.

    Args:
        x: any floating precision; compared in float32, float64 in float64.
        threshold: (C,) or None for 0.
        flip: (C,) bool or None. A folded BatchNorm of negative slope reverses the comparison.
        groups: each group's channels begin a new word.
    """
    pixels = x.permute(0, 2, 3, 1)
    pixels = pixels if x.dtype == torch.float64 else pixels.float()
    bits = pixels >= (0 if threshold is None else threshold.to(pixels.dtype))
    if flip is not None:
        bits = bits ^ flip
    return bits_to_words(bits.unflatten(-1, (groups, x.shape[1] // groups))).flatten(-2)


def unpack_activations(words: Tensor, channels: int, groups: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """(N, H, W, groups * words) int64 -> (N, channels, H, W) of +-1, channels_last in memory."""
    split = words.unflatten(-1, (groups, words.shape[-1] // groups))
    return words_to_signs(split, channels // groups, dtype).flatten(-2).permute(0, 3, 1, 2)


def pack_weight(weight: Tensor, groups: int = 1) -> Tensor:
    """(out, in/groups, kH, kW) numbers -> the packed weight: their signs, 1 bit each.

    Shape (groups, ceil(out/groups/8), kH, kW, words, 8): the last index is the output within its block of 8;
    missing outputs are words of 0. Every kernel reads this one layout.
    """
    out = weight.shape[0] // groups
    words = bits_to_words(weight.unflatten(0, (groups, out)).permute(0, 1, 3, 4, 2) >= 0)  # groups, out, kH, kW, words
    blocks = -(-out // BLOCK)
    padded = F.pad(words, (0, 0, 0, 0, 0, 0, 0, blocks * BLOCK - out))
    return padded.unflatten(1, (blocks, BLOCK)).permute(0, 1, 3, 4, 5, 2).contiguous()


def unpack_weight(packed: Tensor, out_channels: int, in_channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The packed weight -> (out, in/groups, kH, kW) of +-1."""
    groups = packed.shape[0]
    words = packed.permute(0, 1, 5, 2, 3, 4).flatten(1, 2)[:, : out_channels // groups]
    return words_to_signs(words, in_channels // groups, dtype).permute(0, 1, 4, 2, 3).flatten(0, 1).contiguous()


def weight_shape(out_channels: int, in_channels: int, kernel: tuple[int, int], groups: int) -> tuple[int, ...]:
    """The packed weight's shape.

    >>> weight_shape(20, 100, (3, 3), 1)
    (1, 3, 3, 3, 2, 8)
    """
    return groups, -(-(out_channels // groups) // BLOCK), *kernel, words_for(in_channels // groups), BLOCK
