"""Reserve and merge (RMNet, arXiv:2111.00687): a residual block as a chain of convolutions without an addition.

With `[A; B]` for stacked output channels, `[A, B]` for stacked input channels, and I for the Dirac kernel (1 at the tap
that reads the same pixel), a block `y = a2(W2 a1(W1 x + b1) + b2 + D x + d)` becomes

    conv1 = [I; W1], bias [0; b1]           the first C channels carry x
    act   = a1 on the other channels        plain a1 where it leaves x unchanged, as a ReLU does if x >= 0
    conv2 = [D, W2], bias b2 + d, then a2   D is I where the shortcut is the identity

Convolutions between the two are block-diagonal, `[[I, 0], [0, W]]`. Everything here works on meta tensors too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from ...units.contract.geometry import Geometry, plain_conv
from .kernels import Kernel, Shortcut, Values, affine, convolution, folded, linear_kernel, shortcut
from .layers import ChannelClamp, ChannelGate, DivisibleSides, PartialActivation
from .operators import Activation, BatchNorm, Convolution, Gate, Operator, Scale, UnreadableError
from .ranges import ANYTHING
from .reading import Residual

DOUBLING = "double"  # the name of a 1x1 convolution that only doubles the map in front of a chain
_OPEN = 100.0  # the argument at which a sigmoid is 1 in every precision


def chain_of(block: Residual, values: Values, like: Tensor) -> list[tuple[str, nn.Module]]:
    """The layers of the chain that equals a block, with their names.

    Args:
        block: the block.
        values: the model's tensors by name.
        like: a tensor of their precision and device.

    Raises:
        UnreadableError: the block is outside of the conditions of exactness, with the reason.
    """
    branch = shortcut(block.shortcut, block.channels, values, like)
    trunk = folded(block.trunk, block.channels, values, like)
    writer = _Writer(values, like, block.entering)
    writer.plain(block.before)
    if branch.sides != (1, 1):
        writer.add("sides", DivisibleSides(*branch.sides))
    _Carrier(block, branch, trunk, writer).write()
    writer.plain(block.after)
    return writer.layers


class _Writer:
    """Gathers layers under numbered names."""

    def __init__(self, values: Values, like: Tensor, channels: int) -> None:
        self.values, self.like, self.channels = values, like, channels
        self.layers: list[tuple[str, nn.Module]] = []
        self.counts: dict[str, int] = {}
        self.kernel: Kernel | None = None  # the last layer, as long as a scale may still be folded into it

    def add(self, name: str, layer: nn.Module) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1
        self.layers.append((f"{name}{self.counts[name]}", layer))
        self.kernel = None

    def conv(self, kernel: Kernel, name: str = "conv") -> None:
        self.add(name, _module(kernel, self.like))
        self.kernel, self.channels = kernel, kernel.outputs

    def plain(self, operators: Sequence[Operator]) -> None:
        """The operators before the fork and behind the addition, as they are."""
        for op in operators:
            if isinstance(op, Activation):
                self.add("act", activation(op, self.values, self.like))
            elif isinstance(op, Gate):
                self.add("gate", gate(op, 0, self.values, self.like))
            elif isinstance(op, BatchNorm | Scale) and self.kernel is not None:
                kernel = self.kernel.scaled(*affine(op, self.channels, self.values, self.like))
                name, _ = self.layers.pop()
                self.layers.append((name, _module(kernel, self.like)))
                self.kernel = kernel
            elif isinstance(op, BatchNorm):
                self.add("norm", _norm(op, self.values, self.like))
            else:
                self.conv(linear_kernel(op, self.channels, self.values, self.like))


@dataclass(frozen=True)
class _Stage:
    """What happens to the carried channels in one convolution: `taps` (R_out, R_in, kH, kW) and its bias."""

    taps: Tensor
    bias: Tensor
    depthwise: bool


class _Carrier:
    """Writes the trunk with the channels that carry the shortcut in front."""

    def __init__(
        self, block: Residual, branch: Shortcut, trunk: list[Kernel | Activation | Gate], writer: _Writer
    ) -> None:
        self.block, self.branch, self.writer, self.like = block, branch, writer, writer.like
        self.trunk = self._with_first(trunk)
        self.doubles = self.trunk[0] is not trunk[0]
        self.kernels = [layer for layer in self.trunk if isinstance(layer, Kernel)]
        last = self.trunk[-1]
        self.closing = last if isinstance(last, Kernel) and last.groups == 1 and len(self.kernels) > 1 else None
        self._check_strides()
        self.place = self._place_of_spatial()
        self.early = branch.matrix is not None and len(branch.matrix) < branch.matrix.shape[1] and not self._late_only
        per_group = [k.inputs // k.groups for k in self.kernels if _stays_grouped(k)]
        self.multiple = math.lcm(*per_group) if per_group else 1
        self.bounds = block.bounds
        self.channels = block.channels  # of the trunk

    @property
    def _late_only(self) -> bool:
        return self.place is self.closing and self.place is not None

    def _with_first(self, trunk: list[Kernel | Activation | Gate]) -> list[Kernel | Activation | Gate]:
        """The trunk with a dense convolution at its beginning: where there is none, one that doubles the map."""
        first = trunk[0]
        if isinstance(first, Kernel) and first.groups == 1:
            return trunk
        if isinstance(first, Kernel) and first.size == first.stride == (1, 1) and first.groups == first.inputs:
            return [first.dense(), *trunk[1:]]
        same = torch.eye(self.block.channels, dtype=self.like.dtype, device=self.like.device)
        return [Kernel(same[:, :, None, None], same.new_zeros(self.block.channels)), *trunk]

    def _check_strides(self) -> None:
        whole = [math.prod(k.stride[axis] for k in self.kernels) for axis in (0, 1)]
        if tuple(whole) != self.branch.stride:
            raise UnreadableError(f"its trunk has stride {tuple(whole)} and its shortcut {self.branch.stride}")

    def _place_of_spatial(self) -> Kernel | None:
        """The convolution of the trunk that takes in what the shortcut computes of several pixels."""
        spatial = self.branch.spatial
        if spatial is None:
            return None
        for kernel in self.kernels:
            if kernel.stride == self.branch.stride and _embedded(spatial, kernel) is not None:
                return kernel
        raise UnreadableError(
            f"its shortcut looks at {spatial.size[0]}x{spatial.size[1]} pixels, for which no convolution of its trunk "
            "has the size and stride"
        )

    def write(self) -> None:
        """Write all layers up to where the addition was."""
        carried = self.block.channels
        for layer in self.trunk:
            if isinstance(layer, Activation):
                channels = self._width(carried) + self.channels
                self.writer.add("act", self._activation(layer, self._width(carried), channels))
            elif isinstance(layer, Gate):
                self.writer.add("gate", gate(layer, self._width(carried), self.writer.values, self.like))
            elif layer is self.closing:
                self._close(layer, carried)
                return
            else:
                carried = self._carry(layer, carried)
                self.channels = layer.outputs
        same = torch.eye(self.channels, dtype=self.like.dtype, device=self.like.device)[:, :, None, None]
        self._close(Kernel(same, same.new_zeros(self.channels)), carried)

    def _width(self, carried: int) -> int:
        """The number of channels that stand for the carried ones: as many as fill whole groups."""
        return -(-carried // self.multiple) * self.multiple

    def _carry(self, kernel: Kernel, carried: int) -> int:
        """One convolution that is not the last. Returns the number of carried channels behind it."""
        first = kernel is self.kernels[0]
        stage = self._stage(kernel, carried, closing=False)
        before, after = carried if first else self._width(carried), self._width(len(stage.taps))
        spatial = self.branch.spatial if kernel is self.place else None
        if not stage.depthwise or (spatial is not None and not self.branch.averages):
            self.bounds = ANYTHING
        elif after > len(stage.taps) or (spatial is not None and any(spatial.padding)):
            self.bounds = min(self.bounds[0], 0.0), max(self.bounds[1], 0.0)
        bias = torch.cat([_padded(stage.bias, after), kernel.bias])
        if stage.depthwise and _stays_grouped(kernel) and not first:
            self.writer.conv(self._grouped(kernel, stage, after, bias))
            return len(stage.taps)
        dense = kernel.dense()
        wide = kernel.weight.new_zeros(after + kernel.outputs, before + (0 if first else dense.inputs), *kernel.size)
        wide[: len(stage.taps), :carried] = stage.taps
        wide[after:, (0 if first else before) :] = dense.weight
        name = DOUBLING if first and self.doubles else "conv"
        self.writer.conv(replace(kernel, weight=wide, bias=bias, groups=1), name)
        return len(stage.taps)

    def _grouped(self, kernel: Kernel, stage: _Stage, width: int, bias: Tensor) -> Kernel:
        """A grouped convolution with as many more groups as the carried channels fill."""
        own = kernel.inputs // kernel.groups
        carried = len(stage.taps)
        index = torch.arange(carried, device=self.like.device)
        rows = kernel.weight.new_zeros(width, own, *kernel.size)
        rows[index, index % own] = stage.taps[index, index]
        return replace(kernel, weight=torch.cat([rows, kernel.weight]), bias=bias, groups=kernel.groups + width // own)

    def _stage(self, kernel: Kernel, carried: int, *, closing: bool) -> _Stage:
        """What the carried channels go through in one convolution."""
        at_place = self.place is kernel if self.place is not None else kernel is self.kernels[0]
        spatial = self.branch.spatial if self.place is kernel else None
        taps = _dirac(kernel, carried) if spatial is None else _embedded(spatial.dense(), kernel)
        bias = self.like.new_zeros(carried) if spatial is None else spatial.bias
        depthwise = spatial is None or spatial.groups == spatial.outputs == spatial.inputs
        matrix = self.branch.matrix
        if matrix is not None and ((self.early and at_place) or (closing and not self.early)):
            taps, bias, depthwise = torch.einsum("om,mihw->oihw", matrix, taps), matrix @ bias, False
        if (self.early and at_place) or (closing and not self.early):
            bias = bias + self.branch.bias if len(bias) == len(self.branch.bias) else bias
        return _Stage(cast(Tensor, taps), bias, depthwise)

    def _close(self, kernel: Kernel, carried: int) -> None:
        """The convolution that merges: `[D, W]`."""
        stage = self._stage(kernel, carried, closing=True)
        if len(stage.taps) != kernel.outputs:
            raise UnreadableError(f"its shortcut has {len(stage.taps)} channels and its trunk {kernel.outputs}")
        room = self._width(carried) - carried
        empty = stage.taps.new_zeros(kernel.outputs, room, *kernel.size)
        weight = torch.cat([stage.taps, empty, kernel.weight], 1)
        self.writer.conv(replace(kernel, weight=weight, bias=kernel.bias + stage.bias))

    def _activation(self, op: Activation, carried: int, channels: int) -> nn.Module:
        low, high = op.bounds or ANYTHING
        if op.bounds is not None and low <= self.bounds[0] and self.bounds[1] <= high:
            carried = 0
        return activation(op, self.writer.values, self.like, carried=carried, channels=channels)


def activation(op: Activation, values: Values, like: Tensor, *, carried: int = 0, channels: int = 0) -> nn.Module:
    """The module of an activation that leaves the first `carried` of the channels as they are."""
    if op.slope is not None:
        slope = values[op.slope]
        own = slope if len(slope) > 1 or not carried else slope.expand(channels - carried)
        module = nn.PReLU(carried + len(own), device=own.device, dtype=own.dtype)
        with torch.no_grad():
            module.weight.copy_(torch.cat([own.new_ones(carried), own]))
        return module
    plain = cast(nn.Module, getattr(nn, op.name)(**op.arguments))
    if not carried:
        return plain
    if op.bounds is None:
        return PartialActivation(carried, plain)
    low, high = (like.new_full((channels,), each) for each in op.bounds)
    low[:carried], high[:carried] = -math.inf, math.inf
    return ChannelClamp(low, high)


def gate(op: Gate, carried: int, values: Values, like: Tensor) -> nn.Module:
    """A gate on more channels: the first `carried` ones are not looked at, and are multiplied by exactly 1.

    Their weights are 0, and their bias is so large that the last function gives 1.
    """
    kernels = [convolution(layer, values) if isinstance(layer, Convolution) else layer for layer in op.layers]
    convs = [index for index, layer in enumerate(kernels) if isinstance(layer, Kernel)]
    last = kernels[-1] if kernels else None
    if not convs or not isinstance(last, Activation) or last.name not in ("Sigmoid", "Hardsigmoid"):
        raise UnreadableError("its gate does not end in a sigmoid, so it cannot be held at 1")
    layers: list[nn.Module] = []
    for index, layer in enumerate(kernels):
        if isinstance(layer, Activation):
            layers.append(activation(layer, values, like))
            continue
        layer = cast(Kernel, layer).dense()
        weight, bias = layer.weight, layer.bias
        if weight.shape[2:] != (1, 1):
            raise UnreadableError("its gate holds a convolution larger than 1x1")
        if index == convs[0]:
            weight = torch.cat([weight.new_zeros(len(weight), carried, 1, 1), weight], 1)
        if index == convs[-1]:
            weight = torch.cat([weight.new_zeros(carried, *weight.shape[1:]), weight])
            bias = torch.cat([bias.new_full((carried,), _OPEN), bias])
        layers.append(_module(replace(layer, weight=weight, bias=bias), like))
    return ChannelGate(*layers)


def _stays_grouped(kernel: Kernel) -> bool:
    """Is a grouped convolution widened by more groups of its kind? That needs as many outputs as inputs a group."""
    return kernel.groups > 1 and kernel.outputs == kernel.inputs


def _dirac(kernel: Kernel, channels: int) -> Tensor:
    row, column = kernel.centre
    taps = kernel.weight.new_zeros(channels, channels, *kernel.size)
    index = torch.arange(channels, device=taps.device)
    taps[index, index, row, column] = 1
    return taps


def _embedded(spatial: Kernel, kernel: Kernel) -> Tensor | None:
    """The taps of a kernel written into one of another size, padding and equal stride; None if they do not fit."""
    try:
        row, column = kernel.centre
    except UnreadableError:
        return None
    if kernel.dilation != (1, 1) or spatial.dilation != (1, 1):
        return None
    top, left = row - spatial.padding[0], column - spatial.padding[1]
    bottom, right = top + spatial.size[0], left + spatial.size[1]
    if min(top, left) < 0 or bottom > kernel.size[0] or right > kernel.size[1]:
        return None
    taps = spatial.weight.new_zeros(*spatial.weight.shape[:2], *kernel.size)
    taps[:, :, top:bottom, left:right] = spatial.weight
    return taps


def _padded(vector: Tensor, length: int) -> Tensor:
    return torch.cat([vector, vector.new_zeros(length - len(vector))])


def _module(kernel: Kernel, like: Tensor) -> nn.Conv2d:
    geometry = Geometry(
        kernel.inputs, kernel.outputs, kernel.size, kernel.stride, kernel.padding, kernel.dilation, kernel.groups
    )
    return plain_conv(geometry, kernel.weight, kernel.bias, like=like)


def _norm(op: BatchNorm, values: Values, like: Tensor) -> nn.BatchNorm2d:
    mean, variance = values[op.mean], values[op.variance]
    norm = nn.BatchNorm2d(len(mean), op.eps, device=like.device, dtype=like.dtype)
    with torch.no_grad():
        for tensor, name in ((norm.weight, op.weight), (norm.bias, op.bias)):
            if name is not None:
                tensor.copy_(values[name])
        cast(Tensor, norm.running_mean).copy_(mean)
        cast(Tensor, norm.running_var).copy_(variance)
    return norm
