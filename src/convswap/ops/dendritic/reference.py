"""The dendritic convolution as its formula reads. It materialises everything: (batch, out, in, H, W) and more."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def dendritic_conv2d_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    output_bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """`out[n, o, p] = sum_c sum_t weight[o, c, t] relu(x[n, c, s p + d t - pad] + bias[o, c(, t)]) + output_bias[o]`.

    Differentiable by autograd. Padded pixels contribute nothing: the zeros stand after the rectifier.

    Args:
        x: (N, in, H, W).
        weight: (out, in/groups, kH, kW).
        bias: of the dendrites: (out, in/groups), one a pair of channels; or of the weight's shape, one a tap.
        output_bias: (out,) or None.
        stride, dilation: (rows, columns).
        padding: zeros at (left, right, top, bottom), as `F.pad` takes them.
        groups: as in `F.conv2d`.
    """
    images, _, height, width = x.shape
    out, inputs, kh, kw = weight.shape
    per_output = x.reshape(images, groups, 1, inputs, height, width)
    if bias.dim() == 2:
        shifted = per_output + bias.reshape(groups, -1, inputs, 1, 1)
        h = shifted.relu().reshape(images, out * inputs, height, width)
        padded = F.pad(h, tuple(padding))
        return F.conv2d(padded, weight, output_bias, tuple(stride), 0, tuple(dilation), groups=out)
    taps, (dh, dw) = [], dilation
    padded, inside = F.pad(x, tuple(padding)), F.pad(torch.ones_like(x), tuple(padding))
    rows, columns = ((size - d * (k - 1) - 1) // s + 1 for size, d, k, s in _axes(padded, weight, dilation, stride))
    for u in range(kh):
        for v in range(kw):
            window = (
                slice(u * dh, u * dh + (rows - 1) * stride[0] + 1, stride[0]),
                slice(v * dw, v * dw + (columns - 1) * stride[1] + 1, stride[1]),
            )
            seen, real = (t[:, :, *window].reshape(images, groups, 1, inputs, rows, columns) for t in (padded, inside))
            h = (seen + bias[:, :, u, v].reshape(groups, -1, inputs, 1, 1)).relu() * real
            taps.append((h * weight[:, :, u, v].reshape(groups, -1, inputs, 1, 1)).sum(3))
    total = torch.stack(taps).sum(0).reshape(images, out, rows, columns)
    return total if output_bias is None else total + output_bias[:, None, None]


def _axes(x: Tensor, weight: Tensor, dilation: Sequence[int], stride: Sequence[int]) -> list[tuple[int, int, int, int]]:
    return [(x.shape[2 + a], dilation[a], weight.shape[2 + a], stride[a]) for a in (0, 1)]
