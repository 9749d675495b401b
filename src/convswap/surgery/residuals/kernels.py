"""The linear operators of a block as kernels, and the shortcut as one linear map.

A kernel is a convolution with values: everything linear in a trunk becomes one, batch norms and scales folded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..algebra import average_pool_kernel, identity_kernel
from .operators import (
    Activation,
    AveragePool,
    BatchNorm,
    Convolution,
    Gate,
    Operator,
    PadChannels,
    Pair,
    Scale,
    Subsample,
    UnreadableError,
)

Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Kernel:
    """A convolution with values: weight (O, I/groups, kH, kW), bias (O,)."""

    weight: Tensor
    bias: Tensor
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def outputs(self) -> int:
        """Output channels."""
        return len(self.weight)

    @property
    def inputs(self) -> int:
        """Input channels."""
        return self.weight.shape[1] * self.groups

    @property
    def size(self) -> Pair:
        """Rows and columns."""
        return self.weight.shape[2], self.weight.shape[3]

    @property
    def centre(self) -> Pair:
        """The tap that reads pixel `stride * i` for output pixel i.

        Raises:
            UnreadableError: there is none, or the map grows, so that carried pixels would be lost.
        """
        taps = [p // d for p, d in zip(self.padding, self.dilation, strict=True)]
        axes = zip(self.padding, self.dilation, self.size, taps, strict=True)
        if any(p % d or tap >= k or 2 * p > d * (k - 1) for p, d, k, tap in axes):
            raise UnreadableError(
                f"no tap of a {self.size[0]}x{self.size[1]} convolution with padding {self.padding} and dilation "
                f"{self.dilation} can carry the shortcut"
            )
        return taps[0], taps[1]

    def dense(self) -> Kernel:
        """The same convolution with one group."""
        if self.groups == 1:
            return self
        wide = self.weight.new_zeros(self.outputs, self.inputs, *self.size)
        rows, columns = self.outputs // self.groups, self.inputs // self.groups
        for g in range(self.groups):
            own = slice(g * rows, (g + 1) * rows)
            wide[own, g * columns : (g + 1) * columns] = self.weight[own]
        return replace(self, weight=wide, groups=1)

    def scaled(self, scale: Tensor, shift: Tensor) -> Kernel:
        """Followed by `scale * y + shift` per channel."""
        return replace(self, weight=self.weight * scale.reshape(-1, 1, 1, 1), bias=self.bias * scale + shift)


def convolution(op: Convolution, values: Values) -> Kernel:
    """A convolution with its values. A linear layer's weight (O, I) becomes (O, I, 1, 1)."""
    weight = values[op.weight]
    weight = weight if weight.dim() == 4 else weight[:, :, None, None]
    bias = weight.new_zeros(len(weight)) if op.bias is None else values[op.bias]
    return Kernel(weight, bias, op.stride, op.padding, op.dilation, op.groups)


def affine(op: BatchNorm | Scale, channels: int, values: Values, like: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and shift per channel of a batch norm or a factor."""
    if isinstance(op, Scale):
        factor = like.new_full((1,), op.factor) if isinstance(op.factor, float) else values[op.factor].reshape(-1)
        return factor.expand(channels), like.new_zeros(channels)
    scale = torch.rsqrt(values[op.variance] + op.eps)
    scale = scale if op.weight is None else scale * values[op.weight]
    shift = -values[op.mean] * scale
    return scale, shift if op.bias is None else shift + values[op.bias]


def linear_kernel(op: Operator, channels: int, values: Values, like: Tensor, *, guarded: bool = False) -> Kernel:
    """A linear operator on a map of so many channels.

    Args:
        op: the operator.
        channels: channels of its input.
        values: the model's tensors by name.
        like: a tensor of their precision and device.
        guarded: whether maps of other than divisible sides are kept away from it.

    Raises:
        UnreadableError: it is none that a trunk can hold.
    """
    if isinstance(op, Convolution):
        return convolution(op, values)
    none = like.new_zeros(channels)
    if isinstance(op, AveragePool):
        if op.ceil and not guarded:
            raise UnreadableError("an average pool with ceil_mode=True stands outside of its shortcut")
        weight = average_pool_kernel(channels, channels, op.kernel, like=like)
        return Kernel(weight, none, op.stride, op.padding, groups=channels)
    if isinstance(op, BatchNorm | Scale):
        scale, shift = affine(op, channels, values, like)
        return Kernel(scale.reshape(-1, 1, 1, 1), shift, groups=channels)
    if isinstance(op, Subsample):
        return Kernel(identity_kernel(channels, channels, like=like), none, op.stride, groups=channels)
    raise UnreadableError(f"its trunk holds a {type(op).__name__}")


def folded(
    operators: Sequence[Operator], channels: int, values: Values, like: Tensor
) -> list[Kernel | Activation | Gate]:
    """A trunk with every batch norm and factor folded into the convolution right before it."""
    layers: list[Kernel | Activation | Gate] = []
    for op in operators:
        if isinstance(op, Activation | Gate):
            layers.append(op)
            continue
        last = layers[-1] if layers else None
        if isinstance(op, BatchNorm | Scale) and isinstance(last, Kernel):
            layers[-1] = last.scaled(*affine(op, channels, values, like))
        else:
            layers.append(linear_kernel(op, channels, values, like))
            channels = layers[-1].outputs  # type: ignore[union-attr]
    return layers


@dataclass(frozen=True)
class Shortcut:
    """The linear branch: `spatial` (None: the identity on every stride-th pixel), then a matrix on the channels.

    Attributes:
        spatial: a kernel of more than one pixel, depthwise (an average pool) or dense (a convolution).
        stride: of the whole branch.
        matrix: (O, C), None for the identity.
        bias: (O,), added behind the matrix.
        averages: whether the kernel is an average pool, which keeps the bounds of its input.
        sides: by what the sides of the map must be divisible.
    """

    spatial: Kernel | None
    stride: Pair
    matrix: Tensor | None
    bias: Tensor
    averages: bool = False
    sides: Pair = (1, 1)


def shortcut(operators: Sequence[Operator], channels: int, values: Values, like: Tensor) -> Shortcut:
    """The composition of the linear operators of a shortcut.

    Raises:
        UnreadableError: two of them look at more than one pixel, or one does so behind a stride.
    """
    found = Shortcut(None, (1, 1), None, like.new_zeros(channels))
    for op in operators:
        width = channels if found.matrix is None else len(found.matrix)
        if isinstance(op, PadChannels):
            found = _through(found, _padding_matrix(op, width, like), like.new_zeros(op.before + width + op.after))
            continue
        kernel = linear_kernel(op, width, values, like, guarded=True)
        if kernel.size == (1, 1) and kernel.padding == (0, 0):
            stride = (found.stride[0] * kernel.stride[0], found.stride[1] * kernel.stride[1])
            if isinstance(op, Subsample):
                found = replace(found, stride=stride)
            else:
                found = replace(_through(found, kernel.dense().weight[:, :, 0, 0], kernel.bias), stride=stride)
            continue
        if found.spatial is not None or found.stride != (1, 1) or found.matrix is not None:
            raise UnreadableError("its shortcut looks at several pixels behind a stride or another convolution")
        sides = op.stride if isinstance(op, AveragePool) and op.ceil else (1, 1)
        averages = isinstance(op, AveragePool)
        found = Shortcut(kernel, kernel.stride, None, like.new_zeros(kernel.outputs), averages, sides)
        channels = kernel.outputs
    return found


def _through(found: Shortcut, matrix: Tensor, bias: Tensor) -> Shortcut:
    whole = matrix if found.matrix is None else matrix @ found.matrix
    return replace(found, matrix=whole, bias=matrix @ found.bias + bias)


def _padding_matrix(op: PadChannels, channels: int, like: Tensor) -> Tensor:
    matrix = like.new_zeros(op.before + channels + op.after, channels)
    index = torch.arange(channels, device=like.device)
    matrix[op.before + index, index] = 1
    return matrix
