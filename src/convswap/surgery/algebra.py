"""The identities behind fusing: everything linear and shift-invariant between two non-linearities is one convolution.

A kernel is `(weight, bias)` with weight (O, I/groups, kH, kW) and bias (O,). All functions are differentiable and
keep dtype and device; pass float64 for exact folding. Letters refer to the usual table of identities
(RepVGG, arXiv:2101.03697; Diverse Branch Block, arXiv:2103.13425); each docstring says when it is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FusionError

Kernel = tuple[Tensor, Tensor]


def scale_outputs(weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor) -> Kernel:
    """A: convolution, then `scale * y + shift` per output channel. Always exact."""
    new_bias = shift if bias is None else bias * scale + shift
    return weight * scale.reshape(-1, 1, 1, 1), new_bias


def add_branches(branches: Sequence[Kernel]) -> Kernel:
    """B: the sum of branches of equal kernel size, stride, groups and padding. Always exact."""
    weights, biases = zip(*branches, strict=True)
    return torch.stack(weights).sum(0), torch.stack(biases).sum(0)


def embed_kernel(
    weight: Tensor,
    padding: tuple[int, int],
    dilation: tuple[int, int],
    kernel_size: tuple[int, int],
    target_padding: tuple[int, int],
) -> Tensor:
    """C: a small kernel written into a larger, undilated one.

    The kernel is spread by its dilation to size `k' = d (k - 1) + 1` and placed at offset `P - p`. Exact when
    `P - p >= 0` and `K - k' = 2 (P - p)` on both axes, with equal strides and padding mode.

    Raises:
        FusionError: the condition does not hold; both sizes are named.
    """
    out_channels, in_channels, height, width = weight.shape
    spread = [d * (k - 1) + 1 for d, k in zip(dilation, (height, width), strict=True)]
    offset = [big - small for big, small in zip(target_padding, padding, strict=True)]
    room = [big - small for big, small in zip(kernel_size, spread, strict=True)]
    if any(o < 0 or r != 2 * o for o, r in zip(offset, room, strict=True)):
        raise FusionError(
            f"a {height}x{width} kernel with padding {padding} and dilation {dilation} does not fit into a "
            f"{kernel_size[0]}x{kernel_size[1]} kernel with padding {target_padding}"
        )
    large = weight.new_zeros(out_channels, in_channels, *kernel_size)
    rows = slice(offset[0], offset[0] + spread[0], dilation[0])
    columns = slice(offset[1], offset[1] + spread[1], dilation[1])
    large[:, :, rows, columns] = weight
    return large


def identity_kernel(channels: int, groups: int, kernel_size: tuple[int, int] = (1, 1), *, like: Tensor) -> Tensor:
    """D: the identity as a convolution (stride 1, odd kernel, padding k // 2): `w[i, i mod (C/groups), c, c] = 1`."""
    if any(k % 2 == 0 for k in kernel_size):
        raise FusionError(f"the identity needs an odd kernel, got {kernel_size[0]}x{kernel_size[1]}")
    weight = like.new_zeros(channels, channels // groups, *kernel_size)
    index = torch.arange(channels, device=like.device)
    weight[index, index % (channels // groups), kernel_size[0] // 2, kernel_size[1] // 2] = 1
    return weight


def average_pool_kernel(channels: int, groups: int, kernel_size: tuple[int, int], *, like: Tensor) -> Tensor:
    """E: average pooling as a convolution. Exact for `count_include_pad=True` and `ceil_mode=False`."""
    weight = like.new_zeros(channels, channels // groups, *kernel_size)
    index = torch.arange(channels, device=like.device)
    weight[index, index % (channels // groups)] = 1 / (kernel_size[0] * kernel_size[1])
    return weight


def pointwise_then_kernel(first: Kernel, second: Kernel, groups: int = 1) -> Kernel:
    """F: a 1x1 convolution, then a KxK one of the same groups.

    `W[o, i] = sum_m W2[o, m] W1[m, i]`, `b = b2 + sum W2 b1`. Exact only if the intermediate is padded with the
    first kernel's bias (not with zeros), or not padded at all.
    """
    (w1, b1), (w2, b2) = first, second
    parts = []
    for a, b in zip(w1.chunk(groups), w2.chunk(groups), strict=True):
        parts.append(torch.einsum("omhw,mi->oihw", b, a[:, :, 0, 0]))
    bias_parts = [torch.einsum("omhw,m->o", w, b) for w, b in zip(w2.chunk(groups), b1.chunk(groups), strict=True)]
    return torch.cat(parts), b2 + torch.cat(bias_parts)


def kernel_then_pointwise(first: Kernel, second: Kernel, groups: int = 1) -> Kernel:
    """G: a KxK convolution, then a 1x1 one of the same groups. Always exact."""
    (w1, b1), (w2, b2) = first, second
    weights = [
        torch.einsum("om,mihw->oihw", b[:, :, 0, 0], a) for a, b in zip(w1.chunk(groups), w2.chunk(groups), strict=True)
    ]
    biases = [b[:, :, 0, 0] @ a for a, b in zip(b1.chunk(groups), w2.chunk(groups), strict=True)]
    return torch.cat(weights), b2 + torch.cat(biases)


def pad_with_bias(x: Tensor, bias: Tensor, padding: int) -> Tensor:
    """Pad (N, C, H, W) with one value per channel. Rule F needs its intermediate result padded like this."""
    inner = F.pad(x - bias.reshape(1, -1, 1, 1), (padding,) * 4)
    return inner + bias.reshape(1, -1, 1, 1)
