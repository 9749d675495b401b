"""The G-Ghost stage: most blocks work on some of the channels; the first block makes the others (arXiv:2201.03297)."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import UsageError, check_choice, check_number, check_whole, is_whole
from ..contract.block import BlockUnit, Place
from ..contract.registry import register_unit
from ..support.folding import fold_pairs
from ..support.rectifier import FreeReLU

FEWEST_BLOCKS = 3
_DEFAULT_GROUP_WIDTH = 8  # of the smallest published network; the others have 16 to 168


class RegNetXBlock(nn.Module):
    """The bottleneck of RegNetX, the block of the G-Ghost networks: `relu(f(x) + shortcut(x))`.

    f is 1x1 BN ReLU, 3x3 in groups of `min(group_width, out_channels)` channels with the stride, BN ReLU, 1x1 BN. The
    shortcut is the identity, or a strided 1x1 convolution with BatchNorm where the shape changes.
    (N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride)).

    Args:
        in_channels, out_channels, stride: of the block; all inner maps have `out_channels` channels.
        group_width: channels of a group.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        group_width: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        groups = out_channels // min(out_channels, group_width)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 1, bias=False, **place)
        self.bn1 = nn.BatchNorm2d(out_channels, **place)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride, 1, groups=groups, bias=False, **place)
        self.bn2 = nn.BatchNorm2d(out_channels, **place)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(out_channels, out_channels, 1, bias=False, **place)
        self.bn3 = nn.BatchNorm2d(out_channels, **place)
        self.act3 = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False, **place)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels, **place))

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        y = self.act1(self.bn1(self.conv1(input)))
        y = self.act2(self.bn2(self.conv2(y)))
        return self.act3(self.bn3(self.conv3(y)) + self.downsample(input))


class _StageForward(nn.Module):
    """The forward pass of the stage and its fused form, which differ only in the BatchNorms of their parts."""

    raw: int
    base: nn.Module
    layers: nn.Sequential
    cheap: nn.Module
    merge: nn.Sequential | None
    cheap_act: nn.Module
    end: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W').

        Raises:
            ValueError: one image in train mode: the BatchNorms of the mix have one value per channel to normalise.
        """
        if self.merge is not None:
            self._refuse_one_image(input.shape[0])  # len() would fix the batch size in an export
        first = self.base(input)
        raw, cheap = first[:, : self.raw], self.cheap(first[:, self.raw :])
        # Pooling every map and joining the vectors is pooling the joined maps, without that large copy.
        pooled = [first.mean((2, 3), keepdim=True)]
        for layer in self.layers:
            raw = layer(raw)
            if self.merge is not None:
                pooled.append(raw.mean((2, 3), keepdim=True))
        if self.merge is not None:
            cheap = cheap + self.merge(torch.cat(pooled, 1))
        return self.end(torch.cat([raw, self.cheap_act(cheap)], 1))

    def _refuse_one_image(self, batch: int) -> None:
        norm = cast(nn.Sequential, self.merge)[2]
        if isinstance(norm, nn.BatchNorm2d) and norm.training and batch == 1:
            raise UsageError(
                "batch size 1 is not allowed in train mode: the mix of a G-Ghost stage normalises one pooled value per "
                "channel and image; give at least 2 images to every device, or build the stage with mix=False"
            )


@register_unit(
    "g_ghost",
    replaces="stage",
    paper="arXiv:2201.03297",
    year=2022,
    summary="a stage whose inner blocks work on half of the channels; the others come from its first block",
    warm_start="none",
    fusion="cheaper",
    default_where="all & !first",
    placement="paper",
    train_eval="batch_norm",
    variants=({"mix": False}, {"cheap_ratio": 0.25, "group_width": 2}),
)
class GGhostStage(_StageForward, BlockUnit):
    """A G-Ghost stage of n = `depth` blocks: (N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride)).

    With gw = `group_width`, `gw' = max(1, int(0.75 gw))` and lambda = `cheap_ratio`, the out channels split into
    `raw = int(out (1 - lambda) / gw') gw'` and `cheap = out - raw` (so with rounding more than half may be cheap):

    - `x0 = block(x)`: full width, with the stride; `e_0 = x0[:, :raw]`;
    - `e_i = block_i(e_{i-1})`, i = 1 .. n - 2: raw channels, groups of gw';
    - mix: `m = BN(W2 relu(BN(W1 GAP(concat[x0, e_1, .., e_{n-2}]))))`, (N, cheap, 1, 1);
    - cheap path: `c = relu(BN(Wc x0[:, raw:]) + m)`, 1x1;
    - `out = block(concat[e_{n-2}, c])`: full width.

    The blocks are RegNetX bottlenecks, as in the published networks, whatever blocks they replace. Parameter names
    are those of the official code, whose stages load strictly.

    The maps that the mix normalises are 1x1: in train mode every device needs at least 2 images, or `mix=False`.
    `fuse()` folds all BatchNorms; the mix depends on the input and stays.

    Args:
        in_channels, out_channels, stride: of the stage.
        depth: n, the number of blocks, at least 3: a first, a last and one between them.
        cheap_ratio: lambda, between 0 and 1, the share of channels that the inner blocks leave out.
        group_width: gw, a divisor of `out_channels` that leaves the inner blocks at least one group. None: the largest
            such divisor that is at most 8, the group width of the smallest published network (the divisor is our
            rule; the paper's networks have 8 to 168).
        mix: whether the cheap path gets the pooled features.
        device, dtype: of the parameters.

    Raises:
        ValueError: an option is not allowed. The message names the allowed group widths.
    """

    def setup(
        self,
        *,
        depth: int = FEWEST_BLOCKS,
        cheap_ratio: float = 0.5,
        group_width: int | None = None,
        mix: bool = True,
    ) -> None:
        """Check the options and build the unit; see the class."""
        check_choice("mix", mix, (True, False))
        check_whole("depth", depth, FEWEST_BLOCKS)
        self.depth, self.cheap_ratio, self.mix = depth, cheap_ratio, bool(mix)
        self.group_width = _group_width(self.out_channels, cheap_ratio, group_width)
        self.raw = _raw_channels(self.out_channels, cheap_ratio, self.group_width)
        place = self.place
        wide: dict[str, Any] = {"group_width": self.group_width, **place}
        inner: dict[str, Any] = {"group_width": _inner_group_width(self.group_width), **place}
        self.base = RegNetXBlock(self.in_channels, self.out_channels, self.stride, **wide)
        self.layers = nn.Sequential(*(RegNetXBlock(self.raw, self.raw, **inner) for _ in range(depth - 2)))
        cheap = self.out_channels - self.raw
        self.cheap = nn.Sequential(nn.Conv2d(cheap, cheap, 1, bias=False, **place), nn.BatchNorm2d(cheap, **place))
        self.merge = _mix(self.out_channels + self.raw * (depth - 2), cheap, place) if mix else None
        self.cheap_act = nn.ReLU(inplace=True)
        self.end = RegNetXBlock(self.out_channels, self.out_channels, **wide)
        self.end.act3 = FreeReLU(inplace=True)  # the stage ends with it
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Convolutions normal with fan-out, BatchNorms 1 and 0, as the official networks."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    @classmethod
    def supports(cls, place: Place, **options: Any) -> str | None:
        """Why the stage cannot stand there: it is too shallow, or its channels cannot be split.

        Raises:
            ValueError: an option has a value that is allowed nowhere.
        """
        depth = options.get("depth", place.depth)
        if isinstance(depth, int) and depth < FEWEST_BLOCKS:
            return f"a G-Ghost stage has at least {FEWEST_BLOCKS} blocks, here are {depth}"
        ratio, width = options.get("cheap_ratio", 0.5), options.get("group_width")
        _check_ratio(ratio)
        allowed = _allowed_group_widths(place.out_channels, ratio)
        if not allowed:
            return f"its {place.out_channels} channels cannot be split by cheap_ratio={ratio!r}"
        if isinstance(width, int) and width not in allowed:
            return _wrong_group_width(place.out_channels, width, allowed)
        return None

    @classmethod
    def options_at(cls, place: Place) -> dict[str, Any]:
        """The depth of the stage that stood there."""
        return {"depth": place.depth}

    def fuse(self) -> FusedGGhostStage:
        """The inference form: every BatchNorm folded, equal in evaluation.

        Raises:
            FusionError: a BatchNorm keeps no running statistics.
        """
        return FusedGGhostStage(self)


class FusedGGhostStage(_StageForward):
    """The inference form of `GGhostStage`: the same graph of convolutions with biases, without BatchNorms.

    Args:
        stage: the stage; it is left untouched.
    """

    def __init__(self, stage: GGhostStage) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = stage.in_channels, stage.out_channels, stage.stride
        self.raw = stage.raw
        self.base, self.layers, self.cheap = fold_pairs(stage.base), fold_pairs(stage.layers), fold_pairs(stage.cheap)
        self.merge = None if stage.merge is None else fold_pairs(stage.merge)
        self.cheap_act, self.end = nn.ReLU(inplace=True), fold_pairs(stage.end)
        self.train(stage.training)


def _mix(in_channels: int, channels: int, place: dict[str, Any]) -> nn.Sequential:
    return nn.Sequential(
        nn.Identity(),  # the official code pools here, and numbers what follows from 1
        nn.Conv2d(in_channels, channels, 1, bias=False, **place),
        nn.BatchNorm2d(channels, **place),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 1, bias=False, **place),
        nn.BatchNorm2d(channels, **place),
    )


def _inner_group_width(group_width: int) -> int:
    return max(1, int(0.75 * group_width))


def _raw_channels(out_channels: int, cheap_ratio: float, group_width: int) -> int:
    inner = _inner_group_width(group_width)
    return int(out_channels * (1 - cheap_ratio) / inner) * inner


def _allowed_group_widths(out_channels: int, cheap_ratio: float) -> list[int]:
    divisors = (width for width in range(1, out_channels + 1) if out_channels % width == 0)
    return [width for width in divisors if _raw_channels(out_channels, cheap_ratio, width) >= 1]


def _check_ratio(cheap_ratio: object) -> None:
    check_number("cheap_ratio", cheap_ratio, lambda r: 0 < r < 1, "a number between 0 and 1, both excluded")


def _group_width(out_channels: int, cheap_ratio: float, group_width: object) -> int:
    """The group width to use: the given one if it is allowed, else the default for these channels."""
    _check_ratio(cheap_ratio)
    allowed = _allowed_group_widths(out_channels, cheap_ratio)
    if not allowed:
        raise UsageError(f"out_channels={out_channels} cannot be split by cheap_ratio={cheap_ratio!r}; give more")
    if group_width is None:
        return max((width for width in allowed if width <= _DEFAULT_GROUP_WIDTH), default=allowed[0])
    if not is_whole(group_width) or group_width not in allowed:
        raise UsageError(_wrong_group_width(out_channels, group_width, allowed))
    return group_width


def _wrong_group_width(out_channels: int, group_width: object, allowed: list[int]) -> str:
    return (
        f"group_width={group_width!r} is not allowed for {out_channels} channels; choose one of "
        f"{', '.join(map(str, allowed))}"
    )
