"""The hierarchy of channels of an MGIC block: widths, groups, and the number of parameters (arXiv:2011.09128)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import UsageError, check_choice, check_number, check_whole

BLOCKS = ("basic", "bottleneck", "mobilenet")
COARSEST = ("code", "paper")
_WIDEST = 2  # a group may get this many times wider than group_size where the channels do not divide


@dataclass(frozen=True)
class Level:
    """One level of the hierarchy.

    Attributes:
        channels: the width c_j, by which the groups are counted (a bottleneck's feature map has `factor` times more).
        groups: of the block, the restriction and the prolongation; 1 on the coarsest level.
        mid: the expanded width of an inverted residual; `channels` for the other blocks.
    """

    channels: int
    groups: int
    mid: int


@dataclass(frozen=True)
class Hierarchy:
    """The levels of an MGIC block at its place: the fine levels from the top, and the coarsest one.

    Attributes:
        fine: levels 0 to L - 1.
        coarse: level L.
        factor: channels of the feature map on a level, as a multiple of the level's width: a bottleneck's expansion.
    """

    fine: tuple[Level, ...]
    coarse: Level
    factor: int


def make_divisible(value: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `value`, at least `divisor` and never below 90 % of `value`.

    >>> make_divisible(3.67 * 24), make_divisible(2)
    (88, 8)
    """
    nearest = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * value else nearest


def default_expansion(block: str) -> int:
    """4 for a bottleneck (ResNet's), 6 for an inverted residual (most rows of MobileNetV3), 1 for a basic block."""
    return {"bottleneck": 4, "mobilenet": 6}.get(block, 1)


def check_expansion(block: str, expansion: float | None) -> float:
    """The expansion of a block type; for None, its default.

    Raises:
        ValueError: not a positive number, not whole for a bottleneck, or given to a basic block.
    """
    if expansion is None:
        return default_expansion(block)
    if block == "basic":
        raise UsageError(f"expansion={expansion!r} is not allowed with block='basic', which expands nothing")
    if block == "bottleneck":
        return check_whole("expansion", expansion)
    return check_number("expansion", expansion, lambda factor: factor > 0, "a positive number")


def check_shaping(
    *,
    group_size: int = 16,
    coarse_channels: int = 16,
    block: str = "basic",
    expansion: float | None = None,
    coarsest: str = "code",
) -> None:
    """Raise a `UsageError` (a `ValueError`) for an option that is wrong at every place."""
    check_choice("block", block, BLOCKS)
    check_choice("coarsest", coarsest, COARSEST)
    check_whole("group_size", group_size, 1)
    check_whole("coarse_channels", coarse_channels, 2)
    check_expansion(block, expansion)


def hierarchy(
    in_channels: int,
    out_channels: int,
    *,
    group_size: int = 16,
    coarse_channels: int = 16,
    block: str = "basic",
    expansion: float | None = None,
    coarsest: str = "code",
) -> Hierarchy:
    """The levels of an MGIC block, see `MGICBlock` for the options.

    >>> [level.channels for level in hierarchy(64, 64).fine], hierarchy(64, 64).coarse.channels
    ([64, 32, 16], 8)

    Raises:
        ValueError: an option is not allowed, or the channels do not divide. The message names the group sizes that do.
    """
    check_shaping(
        group_size=group_size, coarse_channels=coarse_channels, block=block, expansion=expansion, coarsest=coarsest
    )
    ratio = check_expansion(block, expansion)
    factor = int(ratio) if block == "bottleneck" else 1
    if out_channels % factor:
        raise UsageError(f"out_channels={out_channels} must be a multiple of expansion={factor}, a bottleneck's")
    width = out_channels // factor
    if width < 2:
        needed = 2 * factor
        raise UsageError(f"out_channels={out_channels} is not allowed; a hierarchy needs at least {needed} channels")
    mid = make_divisible(in_channels * ratio) if block == "mobilenet" else width
    widths = list(_widths(width, mid, coarse_channels, coarsest))
    fine = [Level(c, _groups(c, m, group_size), m) for c, m in widths[:-1]]
    wide = next((level for level in fine if level.channels > _WIDEST * group_size * level.groups), None)
    if wide is not None:
        raise UsageError(_too_wide(wide, group_size, widths[:-1]))
    return Hierarchy(tuple(fine), Level(widths[-1][0], 1, widths[-1][1]), factor)


def _widths(channels: int, mid: int, coarse_channels: int, coarsest: str) -> Iterator[tuple[int, int]]:
    """(c_j, mid_j) of all levels. The released code halves once more than "until s_c is reached"."""
    yield channels, mid
    while channels / 2 >= coarse_channels:
        channels, mid = channels // 2, mid // 2
        yield channels, mid
    if coarsest == "code":
        yield channels // 2, mid // 2


def _groups(channels: int, mid: int, group_size: int) -> int:
    """The groups of a level: `channels / group_size`, lowered until they divide all grouped channels."""
    groups = max(channels // group_size, 1)
    while any(number % groups for number in (channels, channels // 2, mid)):
        groups -= 1
    return groups


def _too_wide(level: Level, group_size: int, widths: list[tuple[int, int]]) -> str:
    """The message for a level that falls into groups far wider than asked for."""
    top = widths[0][0]
    able = [
        size
        for size in range(1, top + 1)
        if all(channels <= _WIDEST * size * _groups(channels, mid, size) for channels, mid in widths)
    ]
    near = sorted(sorted(able, key=lambda size: abs(size - group_size))[:6])
    expanded = f", {level.mid} expanded" if level.mid != level.channels else ""
    return (
        f"group_size={group_size} is not allowed here: a level of {level.channels} channels{expanded} divides evenly "
        f"only into {level.groups} group(s) of {level.channels // level.groups}, more than {_WIDEST} times as wide; "
        f"group sizes that would do: {', '.join(map(str, near))}"
    )


def mgic_parameters(
    channels: int,
    group_size: int = 16,
    coarse_channels: int = 16,
    *,
    in_channels: int | None = None,
    stride: int = 1,
    block: str = "basic",
    expansion: float | None = None,
    kernel_size: int = 3,
    squeeze_excite: bool = False,
    coarsest: str = "code",
) -> int:
    """Parameters of an MGIC block of `channels` output channels, by formula.

    For basic blocks and powers of two the sum over the levels is
    `sum_j [(2 k^2 + 1) c_j min(s_g, c_j) + 6 c_j] + 2 k^2 c_L^2 + 4 c_L`, linear in the width: about
    `2 (2 k^2 + 1) c s_g`, against the `2 k^2 c^2` of an ordinary residual block.

    >>> mgic_parameters(512, 64, 64), mgic_parameters(1024, 64, 64)
    (1191680, 2443008)
    """
    entering = channels if in_channels is None else in_channels
    levels = hierarchy(
        entering,
        channels,
        group_size=group_size,
        coarse_channels=coarse_channels,
        block=block,
        expansion=expansion,
        coarsest=coarsest,
    )
    shape = (block, levels.factor, kernel_size, squeeze_excite)
    total = _block_parameters(levels.coarse, *shape)
    for level in levels.fine:
        above, below = levels.factor * level.channels, levels.factor * (level.channels // 2)
        total += _block_parameters(level, *shape)
        total += 2 * above * below // level.groups + 2 * above  # R, P and the BatchNorm behind P
        total += 2 * below if block == "mobilenet" else 0  # the BatchNorm behind R
    if stride != 1 or entering != channels:
        dense = entering * channels
        total += dense if block == "mobilenet" else kernel_size**2 * dense // math.gcd(entering, channels)
        total += 0 if block == "mobilenet" else 2 * channels
    return total


def _block_parameters(level: Level, block: str, factor: int, kernel_size: int, squeeze_excite: bool) -> int:
    """Parameters of the block of one level: convolutions, BatchNorms, squeeze-and-excite."""
    c, mid, taps = level.channels, level.mid, kernel_size**2
    if block == "basic":
        return 2 * taps * c * c // level.groups + 4 * c
    if block == "bottleneck":
        return (2 * factor + taps) * c * c // level.groups + 4 * c + 2 * factor * c
    expand = 0 if mid == c else c * mid // level.groups + 2 * mid
    total = expand + taps * mid + 2 * mid + mid * c // level.groups + 2 * c
    if squeeze_excite:
        squeezed = make_divisible(mid // 4)
        total += 2 * mid * squeezed + squeezed + mid
    return total
