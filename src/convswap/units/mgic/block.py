"""Multigrid in channels: a residual block as a V-cycle over a hierarchy of channels (arXiv:2011.09128)."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from ...errors import UsageError, check_choice, check_whole
from ..contract.block import BlockUnit, Place
from ..contract.registry import register_unit
from ..support.folding import fold_pairs
from .levels import Hierarchy, Level, check_shaping, default_expansion, hierarchy, mgic_parameters
from .steps import basic_step, bottleneck_step, conv_norm, inverted_step

__all__ = ["FusedMGIC", "MGICBlock", "mgic_parameters"]

_SHAPING = ("group_size", "coarse_channels", "block", "expansion", "coarsest")


class _Cycle(nn.Module):
    """The V-cycle over five children: `entry`, `restrict`, `coarse`, `prolong`, `smooth`."""

    entry: nn.Module
    restrict: nn.ModuleList
    coarse: nn.Module
    prolong: nn.ModuleList
    smooth: nn.ModuleList

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""
        x = self.entry(input)
        fine, restricted = [], []
        for restrict in self.restrict:
            fine.append(x)
            x = restrict(x)
            restricted.append(x)
        y = self.coarse(x)
        for j in reversed(range(len(fine))):
            # The full approximation scheme: the coarse levels' change is prolonged, not their values.
            y = self.smooth[j](fine[j] + self.prolong[j](y - restricted[j]))
        return y


@register_unit(
    "mgic",
    paper="arXiv:2011.09128",
    year=2020,
    summary="a residual block as a V-cycle over c, c/2, c/4, .. channels: parameters linear in the width",
    warm_start="none",
    fusion="cheaper",
    replaces="block",
    default_where="all",
    placement="paper",
    train_eval="batch_norm",
    variants=(
        # From 4 on: on a level of one channel, BatchNorm leaves the scale before it to rounding.
        {"group_size": 2, "coarse_channels": 4},
        {"coarsest": "paper", "coarse_channels": 2},
        {"block": "bottleneck", "expansion": 2, "group_size": 2, "coarse_channels": 4},
        {"block": "bottleneck", "expansion": 2, "quirks": "code"},
        {"block": "mobilenet", "expansion": 2},
        {"block": "mobilenet", "kernel_size": 5, "squeeze_excite": True, "activation": "hardswish"},
        {"init": "average"},
        {"kernel_size": 1},
    ),
)
class MGICBlock(_Cycle, BlockUnit):
    """A residual block as one V-cycle over levels of c_j = c / 2^j channels.

        down:    x_{j+1} = R_j x_j                              R_j: 1x1, c_j -> c_{j+1}, G_j groups
        coarse:  y_L = Block(x_L)                               dense
        up:      y_j = Block_j(x_j + BN(P_j (y_{j+1} - x_{j+1})))   P_j: 1x1, c_{j+1} -> c_j, G_j groups

    with Block_j of `group_size` channels a group. All convolutions together have O(c group_size) weights, and yet
    every output channel depends on every input channel. A change of stride or width comes before the cycle: a
    grouped spatial convolution (depthwise if out is a multiple of in; else as many groups as divide both, ours),
    BatchNorm and ReLU. For `"mobilenet"` it is only a dense 1x1 convolution.

    The block ends with its own rectifier. Its last layer mixes channels only inside groups; neighbouring groups
    meet only through the hierarchy. The formulas and both defaults of 16 are those of the official code. We could
    not read the text of the paper beyond its introduction.

    Args:
        group_size: channels in a group, s_g. If a level's channels do not divide, the groups get wider, at most
            twice (the official code does so for MobileNetV3 and fails elsewhere). A level narrower than that is dense.
        coarse_channels: s_c, the width at which halving ends.
        block: the block of a level: `"basic"` (ResNet, two spatial convolutions), `"bottleneck"` (ResNet, 1x1,
            spatial, 1x1; the hierarchy then carries `expansion` times the width that is halved) or `"mobilenet"`
            (the inverted residual of MobileNetV3; R_j has a BatchNorm of its own).
        expansion: for a bottleneck a whole number, 4 by default. For an inverted residual, 6 by default: the expanded
            width is `in_channels * expansion` rounded to a multiple of 8 at the top, and is halved on the way down.
        kernel_size: of the spatial convolutions and of the convolution before the cycle; odd. 1 makes the block
            pointwise throughout.
        squeeze_excite: a factor per channel from the mean in every inverted residual (`"mobilenet"` only).
        activation: `"relu"`, or `"hardswish"` for inverted residuals.
        coarsest: `"code"`: the official code halves once more than needed, s_c / 2 <= c_L < s_c, and has at least one
            level above the coarsest. `"paper"`: s_c <= c_L < 2 s_c; without anything to halve, only the dense block.
        quirks: `"plain"`: every step ends with `relu(z + branch(z))`. `"code"`: as released, the coarsest bottleneck
            has one more ReLU before its sum, and an inverted residual adds its skip again, `relu(z + IR(z)) + z`.
            The second sum doubles the signal in every block. Only a network with a BatchNorm behind its blocks copes
            with that (MGIC-MobileNetV3 has one).
        init: of R and P: `"random"` (normal with fan-out, as all convolutions and as in the released networks), or
            `"average"` (each output is the mean of its group, which the code builds first; all coarse channels of a
            group are equal until training separates them).

    Raises:
        ValueError: an option is not allowed, or a level's channels do not divide. The message names the group sizes
            that do.
    """

    def setup(
        self,
        *,
        group_size: int = 16,
        coarse_channels: int = 16,
        block: str = "basic",
        expansion: float | None = None,
        kernel_size: int = 3,
        squeeze_excite: bool = False,
        activation: str = "relu",
        coarsest: str = "code",
        quirks: str = "plain",
        init: str = "random",
    ) -> None:
        """Check the options and build the unit; see the class."""
        check_choice("quirks", quirks, ("plain", "code"))
        check_choice("init", init, ("random", "average"))
        _check_details(block, kernel_size, squeeze_excite, activation)
        self.levels: Hierarchy = hierarchy(
            self.in_channels,
            self.out_channels,
            group_size=group_size,
            coarse_channels=coarse_channels,
            block=block,
            expansion=expansion,
            coarsest=coarsest,
        )
        self.group_size, self.coarse_channels, self.block = group_size, coarse_channels, block
        self.expansion = default_expansion(block) if expansion is None else expansion
        self.kernel_size, self.squeeze_excite, self.activation = kernel_size, squeeze_excite, activation
        self.coarsest, self.quirks, self.init = coarsest, quirks, init
        place = self.place
        self.entry = self._entry(place)
        self.restrict = nn.ModuleList(self._restriction(level, place) for level in self.levels.fine)
        self.coarse = self._step(self.levels.coarse, place, last=True)
        self.prolong = nn.ModuleList(self._prolongation(level, place) for level in self.levels.fine)
        self.smooth = nn.ModuleList(self._step(level, place) for level in self.levels.fine)
        self.reset_parameters()

    @classmethod
    def supports(cls, place: Place, **options: Any) -> str | None:
        """Why the channels cannot be halved or grouped as asked, or None."""
        shaping = {name: options[name] for name in _SHAPING if name in options}
        check_shaping(**shaping)  # an option that is wrong everywhere is not a property of the place
        try:
            hierarchy(place.in_channels, place.out_channels, **shaping)
        except UsageError as error:
            return str(error)
        return None

    def _entry(self, place: dict[str, Any]) -> nn.Module:
        """The layers that change stride and width before the cycle."""
        if self.stride == 1 and self.in_channels == self.out_channels:
            return nn.Identity()
        if self.block == "mobilenet":
            return nn.Conv2d(self.in_channels, self.out_channels, 1, self.stride, bias=False, **place)
        groups = math.gcd(self.in_channels, self.out_channels)
        change = conv_norm(self.in_channels, self.out_channels, self.kernel_size, groups, stride=self.stride, **place)
        return nn.Sequential(*change, nn.ReLU())

    def _restriction(self, level: Level, place: dict[str, Any]) -> nn.Sequential:
        above, below = (self.levels.factor * channels for channels in (level.channels, level.channels // 2))
        both = conv_norm(above, below, 1, level.groups, **place)
        return nn.Sequential(*(both if self.block == "mobilenet" else both[:1]))

    def _prolongation(self, level: Level, place: dict[str, Any]) -> nn.Sequential:
        above, below = (self.levels.factor * channels for channels in (level.channels, level.channels // 2))
        return nn.Sequential(*conv_norm(below, above, 1, level.groups, **place))

    def _step(self, level: Level, place: dict[str, Any], last: bool = False) -> nn.Module:
        """The block of a level; `last`: the coarsest."""
        as_released = self.quirks == "code"
        if self.block == "basic":
            return basic_step(level, self.kernel_size, **place)
        if self.block == "bottleneck":
            return bottleneck_step(level, self.levels.factor, self.kernel_size, last and as_released, **place)
        return inverted_step(level, self.kernel_size, self.squeeze_excite, self.activation, twice=as_released, **place)

    def reset_parameters(self) -> None:
        """Convolutions normal with fan-out (R and P by `init`), BatchNorms 1 and 0, linear layers normal(0, 0.01)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
        if self.init == "average":
            for transfer in (*self.restrict, *self.prolong):
                weight = transfer[0].weight
                nn.init.constant_(weight, 1 / weight.shape[1])

    def fuse(self) -> FusedMGIC:
        """The same cycle with every BatchNorm folded into the convolution before it; equal in evaluation.

        Raises:
            FusionError: a BatchNorm keeps no running statistics.
        """
        return FusedMGIC(self)

    def extra_repr(self) -> str:
        """The place and the hierarchy."""
        widths = [level.channels for level in (*self.levels.fine, self.levels.coarse)]
        groups = [level.groups for level in self.levels.fine]
        return f"{super().extra_repr()}, block={self.block!r}, channels={widths}, groups={groups}"


class FusedMGIC(_Cycle):
    """The inference form of `MGICBlock`: the same cycle without BatchNorms. Built by `MGICBlock.fuse()`."""

    def __init__(self, unit: MGICBlock) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = unit.in_channels, unit.out_channels, unit.stride
        folded = fold_pairs(unit)
        for name in ("entry", "restrict", "coarse", "prolong", "smooth"):
            self.add_module(name, getattr(folded, name))
        self.train(unit.training)
        self.requires_grad_(False)  # an inference form: the unit itself is what trains

    def extra_repr(self) -> str:
        """The place."""
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}"


def _check_details(block: str, kernel_size: object, squeeze_excite: object, activation: object) -> None:
    """The options that do not shape the hierarchy."""
    check_whole("kernel_size", kernel_size, 1)
    if isinstance(kernel_size, int) and kernel_size % 2 == 0:
        raise UsageError(f"kernel_size={kernel_size} is not allowed; give an odd number")
    check_choice("squeeze_excite", squeeze_excite, (False, True))
    check_choice("activation", activation, ("relu", "hardswish"))
    for option, value, plain in (("squeeze_excite", squeeze_excite, False), ("activation", activation, "relu")):
        if block != "mobilenet" and value != plain:
            raise UsageError(f"{option}={value!r} is not allowed with block={block!r}; only with block='mobilenet'")
