"""Dendritic biases of few values as an ordinary convolution over shifted copies of the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...hooks import Hooks
from ...marks import Marked
from ..contract.geometry import Geometry, plain_conv
from ..contract.precision import compute_dtype

_ROUNDS = 100


class LevelConv2d(Marked, Hooks, nn.Module):
    """`conv(relu(x_c + levels[c, t]))` over T maps per input channel: (N, in, H, W) -> (N, out, H', W').

    The inference form of a dendritic convolution whose biases take at most T values per input channel. Weights stand
    in the slot of their level; the other slots hold 0. It is Multi-Bias Activation followed by a convolution. It is
    built by `DendriticConv2d.fuse`.

    Attributes:
        levels: (in, T).
        conv: the convolution over in * T maps, the T maps of a channel side by side.
        bias_error: the largest difference between a dendrite's bias and its level.
    """

    marked_settings = ("margins",)

    def __init__(self, levels: Tensor, conv: nn.Conv2d, margins: tuple[int, ...], bias_error: float) -> None:
        super().__init__()
        self.levels = nn.Parameter(levels, requires_grad=conv.weight.requires_grad)
        self.conv = conv
        self.margins = margins
        self.bias_error = bias_error

    @property
    def weight(self) -> Tensor:
        """The convolution's weight, (out, in * T / groups, kH, kW)."""
        return self.conv.weight

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W), or (in, H, W), -> (N, out, H', W')."""
        x = input if input.dim() == 4 else input.unsqueeze(0)
        if any(self.margins):
            x = F.pad(x, self.margins)
        count = self.levels.shape[1]
        repeated = x if count == 1 else x.repeat_interleave(count, 1)
        y = self.conv((repeated + self.levels.flatten()[:, None, None]).relu_())
        return y if input.dim() == 4 else y.squeeze(0)

    @torch.no_grad()
    def fold_affine(self, scale: Tensor, shift: Tensor) -> None:
        """Absorb a following per-channel `y -> scale y + shift` in place."""
        fold_affine(self.conv, scale, shift)

    def extra_repr(self) -> str:
        """The number of levels and what they cost."""
        return f"levels={self.levels.shape[1]}, bias_error={self.bias_error:.3g}"


def fold_affine(module: nn.Module, scale: Tensor, shift: Tensor) -> None:
    """Fold `y -> scale y + shift` into a module that is linear in `weight` and `bias`; a missing bias is created."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, nn.Parameter)
    scale, shift = scale.to(weight), shift.to(weight)
    weight.mul_(scale[:, None, None, None])
    if isinstance(bias, nn.Parameter):
        bias.mul_(scale).add_(shift)
    else:
        module.bias = nn.Parameter(shift.clone(), requires_grad=weight.requires_grad)


def level_form(
    geometry: Geometry,
    weight: Tensor,
    values: Tensor,
    tapwise: bool,
    output_bias: Tensor | None,
    count: int,
    margins: tuple[int, ...],
    train: bool,
) -> LevelConv2d:
    """The `LevelConv2d` nearest to a dendritic convolution with at most `count` levels per input channel.

    Args:
        geometry: of the convolution over the rectified maps.
        weight: (out, in/groups, kH, kW); gives device, dtype and trainability.
        values: the biases that meet each input channel, `biases_by_input`; (in, 1) if it has a single one.
        tapwise: whether there is one bias per tap.
        output_bias: (out,) or None.
        count: the number of levels T.
        margins: zeros to put around x before the biases are added, as `F.pad` takes them.
        train: the mode of the result.
    """
    levels, nearest, error = cluster(values.to(compute_dtype(weight.dtype)), count)
    out, inputs, kh, kw = weight.shape
    # slot[o, c, t, u, v]: does the bias of output o, input c (and tap u, v) belong to level t?
    taps = (kh, kw) if tapwise else (1, 1)
    own = nearest if values.shape[1] > 1 else nearest.expand(-1, out // geometry.groups * taps[0] * taps[1])
    own = own.reshape(geometry.groups, inputs, out // geometry.groups, *taps).transpose(1, 2)
    own = own.reshape(out, inputs, 1, *taps)
    slots = torch.arange(levels.shape[1], device=own.device)[:, None, None]
    wide = (weight.detach().unsqueeze(2) * (own == slots)).flatten(1, 2)
    conv = plain_conv(geometry, wide, output_bias, like=weight, train=train)
    return LevelConv2d(levels.to(weight.dtype), conv, margins, error).train(train)


def biases_by_input(dendrite_bias: Tensor, groups: int) -> Tensor:
    """The biases that meet each input channel: (out, in/groups[, kH, kW]) -> (in, out/groups[* kH kW])."""
    grouped = dendrite_bias.unflatten(0, (groups, -1)).transpose(1, 2)
    return grouped.reshape(groups * dendrite_bias.shape[1], -1)


def cluster(values: Tensor, count: int) -> tuple[Tensor, Tensor, float]:
    """Row by row, `count` levels near the values by k-means on the line, without random numbers.

    It starts from the smallest value and then repeatedly adds the value farthest from its level, so up to `count`
    distinct values are met exactly. A row with fewer distinct values has unused levels.

    Returns:
        levels (rows, T) sorted, the index of each value's level (rows, n), the largest distance to a level; T is
        `count` or n, whichever is less.
    """
    count = min(count, values.shape[1])
    levels = values.min(1, keepdim=True).values
    while levels.shape[1] < count:
        gap = (values.unsqueeze(2) - levels.unsqueeze(1)).abs().amin(2)
        levels = torch.cat([levels, values.gather(1, gap.argmax(1, keepdim=True))], 1)
    levels = levels.sort(1).values
    for _ in range(_ROUNDS):
        nearest = _nearest(values, levels)
        members = torch.zeros_like(levels).scatter_add_(1, nearest, torch.ones_like(values))
        # The mean as a step from the present level: equal values stay where they are to the last bit.
        offset = torch.zeros_like(levels).scatter_add_(1, nearest, values - levels.gather(1, nearest))
        moved = levels + offset / members.clamp(min=1)
        if torch.equal(moved, levels):
            break
        levels = moved
    nearest = _nearest(values, levels)
    return levels, nearest, float((values - levels.gather(1, nearest)).abs().max())


def _nearest(values: Tensor, levels: Tensor) -> Tensor:
    return (values.unsqueeze(2) - levels.unsqueeze(1)).abs().argmin(2)
