"""Each unit as one would write it down from its paper's formula, and the same block of timm if there is one.

`straightforward(unit)` and `library_peer(unit)` take the parameters of one of our units, so that both compute the same
function. `benchmarks/units/layers.py` checks that before it compares any time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peers.binary import BinaryWeight, Xnor
from benchmarks.peers.cmod import Modulus
from benchmarks.peers.harmonic import Harmonic
from benchmarks.peers.niff import Frequency
from benchmarks.peers.pide import DensePIDE, Hamiltonian
from benchmarks.peers.quantized import Quantized, StochasticQuantized
from convswap.units import Geometry, WeightUnit, without_marks

_CLASSES: dict[str, type[nn.Module]] = {}
_LIBRARY: dict[str, tuple[str, Callable[[Any], nn.Module | None]]] = {}


def writes_down(name: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: the straightforward form of the unit of this name."""

    def add(cls: type[nn.Module]) -> type[nn.Module]:
        _CLASSES[name] = cls
        return cls

    return add


def has_peer(name: str) -> bool:
    """Is there a straightforward form of this unit?"""
    return name in _CLASSES


def straightforward(name: str, unit: nn.Module) -> nn.Module | None:
    """The straightforward form of a unit, with copies of its parameters and in its mode; None if there is none."""
    cls = _CLASSES.get(name)
    return None if cls is None else cls(copy.deepcopy(unit)).train(unit.training)


def library_peer(name: str, unit: nn.Module) -> tuple[str, nn.Module] | None:
    """The same block of another library with the unit's parameters, and its name; None if there is none."""
    if name not in _LIBRARY:
        return None
    label, build = _LIBRARY[name]
    peer = build(unit)
    return None if peer is None else (label, peer.to(next(unit.parameters()).dtype).train(unit.training))


def _convolve(conv: Geometry, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.conv2d` with a unit's geometry, zero padding."""
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


@writes_down("circle")
class Circle(nn.Module):
    """The weight times the sampling matrix, then a convolution with it."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.geometry, self.weight, self.bias = Geometry.of(unit), unit.weight, unit.bias
        self.register_buffer("matrix", unit.matrix)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        weight = (self.weight.flatten(2) @ self.matrix).view_as(self.weight)
        return _convolve(self.geometry, x, weight, self.bias)


@writes_down("circle_mix")
class CircleMix(nn.Module):
    """As `Circle`, with a matrix that is drawn in every training pass."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.geometry, self.weight, self.bias = Geometry.of(unit), unit.weight, unit.bias
        self.probabilities = torch.tensor(unit.probabilities)
        self.register_buffer("matrices", unit.matrices)
        self.register_buffer("expected", unit.expected)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        matrix = self.expected
        if self.training:
            matrix = self.matrices[int(torch.multinomial(self.probabilities, 1))]
        return _convolve(self.geometry, x, (self.weight.flatten(2) @ matrix).view_as(self.weight), self.bias)


@writes_down("circle_square")
class CircleSquare(nn.Module):
    """`BN(conv(x, W)) + BN(conv(x, w T))`."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.square, self.circle = unit.square, Circle(unit.circle)
        self.square_norm, self.circle_norm = unit.square_bn, unit.circle_bn

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        return self.square_norm(self.square(x)) + self.circle_norm(self.circle(x))


@writes_down("ic")
class IC(nn.Module):
    """`z + relu(z - w' s + b1) + b2`, the sum s by a convolution with ones."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.geometry, self.weight, self.bias = Geometry.of(unit), unit.weight, unit.bias
        self.w_prime, self.b1 = unit.w_prime, unit.b1
        self.register_buffer("ones", torch.ones_like(unit.weight[: unit.groups]))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        z = _convolve(self.geometry, x, self.weight)
        s = _convolve(self.geometry, x, self.ones).repeat_interleave(z.shape[1] // self.geometry.groups, 1)
        shift = self.b1[:, None, None]
        y = z + F.relu(z - self.w_prime[:, None, None] * s + shift)
        return y if self.bias is None else y + self.bias[:, None, None]


@writes_down("fixed")
class Fixed(nn.Module):
    """A depthwise `nn.Conv2d` whose weight is frozen."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.conv = unit.fuse()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        return self.conv(x)


class _MinimumBody(nn.Module):
    """1x1, two depthwise convolutions, two instance norms, two rectifiers, the minimum, 1x1."""

    def __init__(self, core: Any) -> None:
        super().__init__()
        self.expand = nn.Sequential(core.expand, core.expand_norm, nn.ReLU())
        maps = core.left.out_channels
        self.left = nn.Sequential(core.left, nn.InstanceNorm2d(maps), nn.ReLU())
        self.right = nn.Sequential(core.right, nn.InstanceNorm2d(maps), nn.ReLU())
        self.project = core.project

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        u = self.expand(x)
        return self.project(torch.minimum(self.left(u), self.right(u)))


@writes_down("minimum")
class Minimum(nn.Module):
    """The body alone."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.body = _MinimumBody(unit.core)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        return self.body(x)


@writes_down("minimum_block")
class MinimumBlock(nn.Module):
    """`relu(BN(body(x)))` plus the pooled input with zero channels appended by a concatenation."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.body = nn.Sequential(_MinimumBody(unit.core), unit.norm, nn.ReLU())
        self.stride, self.extra = unit.stride, unit.out_channels - unit.in_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        y = self.body(x)
        if self.stride > 1:
            x = F.avg_pool2d(x, 2, 2, ceil_mode=True)
        if self.extra > 0:
            x = torch.cat([x, x.new_zeros(x.shape[0], self.extra, *x.shape[2:])], 1)
        return y + x


@writes_down("ghost")
class Ghost(nn.Module):
    """The official module: all ghosts are made, then the surplus is cut off."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.primary, self.cheap, self.out_channels = unit.primary_conv, unit.cheap_operation, unit.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        y = self.primary(x)
        return torch.cat([y, self.cheap(y)], 1)[:, : self.out_channels]


@writes_down("sk")
class SelectiveKernel(nn.Module):
    """Stack the branches, pool their sum, softmax over branches, sum of the products."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.branches, self.attention, self.bias = unit.branches, unit.attention, unit.bias

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        branches_NMCHW = torch.stack([branch(x) for branch in self.branches], 1)
        pooled = branches_NMCHW.sum(1).mean((2, 3), keepdim=True)
        a = self.attention
        logits = a.select(F.relu(a.norm(a.reduce(pooled))))
        weights = logits.view(x.shape[0], len(self.branches), -1, 1, 1).softmax(1)
        y = (branches_NMCHW * weights).sum(1)
        return y if self.bias is None else y + self.bias[:, None, None]


@writes_down("mgic")
class Multigrid(nn.Module):
    """The cycle as a recursion over levels; basic blocks of two convolutions."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.entry, self.restrict, self.prolong = unit.entry, unit.restrict, unit.prolong
        self.coarse, self.smooth = unit.coarse, unit.smooth

    def cycle(self, level: int, x: Tensor) -> Tensor:
        """One level and all below it."""
        if level == len(self.restrict):
            return self.coarse(x)
        below = self.restrict[level](x)
        change = self.cycle(level + 1, below) - below
        return self.smooth[level](x + self.prolong[level](change))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        return self.cycle(0, self.entry(x))


@writes_down("dendritic")
class Dendritic(nn.Module):
    """Every activation of every pair of channels, (N, out, in/groups, H, W), then one group per output channel."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.geometry, self.weight, self.bias = Geometry.of(unit), unit.weight, unit.bias
        self.dendrite_bias = unit.dendrite_bias

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        g = self.geometry
        x_NG1IHW = x.unflatten(1, (g.groups, 1, -1))
        b_GOI11 = self.dendrite_bias.unflatten(0, (g.groups, -1))[..., None, None]
        h_NCHW = F.relu(x_NG1IHW + b_GOI11).flatten(1, 3)
        return F.conv2d(h_NCHW, self.weight, self.bias, g.stride, g.padding, g.dilation, g.out_channels)


@writes_down("half_identity")
class HalfIdentity(nn.Module):
    """Cut in halves, filter the second, concatenate, mix, concatenate with the second as it came."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.depthwise, self.pointwise = unit.depthwise, unit.pointwise

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        u, v = x.chunk(2, 1)
        return torch.cat([v, self.pointwise(torch.cat([u, self.depthwise(v)], 1))], 1)


@writes_down("vgnet_downsampling")
class Downsampling(nn.Module):
    """A frozen depthwise convolution, a 1x1 convolution of it, and both concatenated."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        down = unit.downsample
        self.downsample = down.fuse() if isinstance(down, WeightUnit) else down
        self.pointwise, self.reused = unit.pointwise, unit.reused

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        z = self.downsample(x)
        return torch.cat([z[:, z.shape[1] - self.reused :], self.pointwise(z)], 1)


writes_down("binary_weight")(BinaryWeight)
writes_down("cmod")(Modulus)
writes_down("harmonic")(Harmonic)
writes_down("hamiltonian")(Hamiltonian)
writes_down("niff")(Frequency)
writes_down("quantized")(Quantized)
writes_down("quantized_stochastic")(StochasticQuantized)
writes_down("xnor")(Xnor)
writes_down("pide")(DensePIDE)


@writes_down("g_ghost")
class GGhost(nn.Module):
    """The stage with the mix from the pooled concatenation of all feature maps."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.base, self.layers, self.end = unit.base, unit.layers, unit.end
        self.cheap, self.merge, self.raw = unit.cheap, unit.merge, unit.raw

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        first = self.base(x)
        raw, maps = first[:, : self.raw], [first]
        for layer in self.layers:
            raw = layer(raw)
            maps.append(raw)
        m = self.merge(F.adaptive_avg_pool2d(torch.cat(maps, 1), 1))
        c = F.relu(self.cheap(first[:, self.raw :]) + m)
        return self.end(torch.cat([raw, c], 1))


def _timm_ghost(unit: Any) -> nn.Module | None:
    from timm.models.ghostnet import GhostModule

    kernel, padding = unit.kernel_size[0], unit.padding[0]
    like_timm = unit.groups == 1 and padding == kernel // 2 and unit.dilation == (1, 1)
    if not like_timm or unit.out_channels % unit.ratio:
        return None
    peer = GhostModule(
        unit.in_channels,
        unit.out_channels,
        kernel,
        unit.ratio,
        unit.cheap_kernel,
        unit.stride[0],
        act_layer=nn.ReLU if unit.relu else nn.Identity,
    )
    peer.load_state_dict(without_marks(unit.state_dict()), strict=True)
    return peer


def _timm_sk(unit: Any) -> nn.Module | None:
    from timm.layers import SelectiveKernel as Timm

    if unit.bias is not None or unit.kernel_size != (3, 3) or not unit.relu or len(unit.branches) != 2:
        return None
    peer = Timm(
        unit.in_channels,
        unit.out_channels,
        stride=unit.stride[0],
        groups=unit.branch_groups,
        rd_channels=unit.attention.reduce.out_channels,
        split_input=False,
    )
    ours, theirs = without_marks(unit.state_dict()), peer.state_dict()
    if [v.shape for v in ours.values()] != [v.shape for v in theirs.values()]:
        return None
    peer.load_state_dict(dict(zip(theirs, ours.values(), strict=True)), strict=True)
    return peer


_LIBRARY["ghost"] = ("timm GhostModule", _timm_ghost)
_LIBRARY["sk"] = ("timm SelectiveKernel(split_input=False)", _timm_sk)
