"""The order in which a dendritic convolution is computed: phases of the stride, tiles of images, chunks of outputs.

Every input pixel of a phase is read by the same kernel taps. `y[o, t] = sum_c weight[o, c, t] relu(x[c] + bias[o, c])`
is then one matrix product per output channel, and the output is the sum over t of y shifted by the tap's offset.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ..shapes import output_size

_LEAST_BYTES = 1 << 20  # of buffers: below this a call costs more than its arithmetic, and the memory hardly counts
_CPU_BYTES = 4 << 20  # a few times the inner caches: less makes products small, more leaves the caches
_GPU_BYTES = 256 << 20
_AT_ONCE = 8  # output channels per product, where the buffers allow


class Tap(NamedTuple):
    """One kernel tap of a phase: its place in the flattened kernel and how far its response moves."""

    flat: int
    target: tuple[slice, slice]  # of the output
    source: tuple[slice, slice]  # of the phase


@dataclass(frozen=True)
class Phase:
    """The input pixels `x[rows, columns]`, their size, and the taps that read them.

    Attributes:
        start: the first row and column; the next ones are `step` apart.
        step: the stride.
        size: (rows, columns).
        taps: all that read these pixels; one of them where every tap has its own biases.
    """

    start: tuple[int, int]
    step: tuple[int, int]
    size: tuple[int, int]
    taps: tuple[Tap, ...]

    @property
    def pixels(self) -> tuple[slice, slice]:
        """The slices of the input's rows and columns."""
        return slice(self.start[0], None, self.step[0]), slice(self.start[1], None, self.step[1])


class Chunk(NamedTuple):
    """Whole groups with all their outputs, or some outputs of one group."""

    groups: slice
    outputs: slice  # within the group
    channels: slice  # the same, among all output channels


def phases(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    tapwise: bool = False,
) -> list[Phase]:
    """The phases that at least one tap reads: one if the stride is 1, at most stride² of them.

    With `tapwise`, for one bias per tap, every tap has a phase of its own. Phases of the same pixels are adjacent.
    """
    out = output_size(size, kernel, stride, padding, dilation)
    rows, columns = (_axis(size[a], out[a], kernel[a], stride[a], padding[2 - 2 * a], dilation[a]) for a in (0, 1))
    found = []
    for row, (height, row_taps) in rows.items():
        for column, (width, column_taps) in columns.items():
            taps = tuple(
                Tap(u * kernel[1] + v, (to_row, to_column), (from_row, from_column))
                for u, to_row, from_row in row_taps
                for v, to_column, from_column in column_taps
            )
            for some in [(tap,) for tap in taps] if tapwise else [taps]:
                found.append(Phase((row, column), (stride[0], stride[1]), (height, width), some))
    return found


def _axis(
    size: int, out: int, kernel: int, stride: int, before: int, dilation: int
) -> dict[int, tuple[int, list[tuple[int, slice, slice]]]]:
    """Along one axis, by remainder: the phase's length and its taps (index, slice of the output, of the phase)."""
    found: dict[int, tuple[int, list[tuple[int, slice, slice]]]] = {}
    for tap in range(kernel):
        shift, remainder = divmod(tap * dilation - before, stride)
        length = -((remainder - size) // stride)
        first, last = max(0, -shift), min(out, length - shift)
        if first < last:
            entry = tap, slice(first, last), slice(first + shift, last + shift)
            found.setdefault(remainder, (length, []))[1].append(entry)
    return found


@dataclass(frozen=True)
class Tiles:
    """How many images and which output channels are computed at a time."""

    images: int
    chunks: tuple[Chunk, ...]

    @classmethod
    def choose(cls, x: Tensor, weight: Tensor, found: Sequence[Phase], out: Sequence[int], backward: bool) -> Tiles:
        """Tiles whose buffers stay small beside the input and the output, and small enough to be fast.

        A plain convolution holds input and output, and its backward pass also their gradients. The buffers here are
        at most 3/8 of that, or 1 MiB, or the size that one output channel of one image needs, whichever is most.

        Args:
            x: (N, in, H, W).
            weight: (out, in/groups, kH, kW).
            found: the phases.
            out: (H', W').
            backward: whether the buffers hold gradients too.
        """
        passes = 2 if backward else 1
        pixels = max((p.size[0] * p.size[1] for p in found), default=1)
        taps = max((len(p.taps) for p in found), default=1)
        values = pixels * (weight.shape[1] * passes + taps) + out[0] * out[1]
        held = x.numel() + x.shape[0] * weight.shape[0] * out[0] * out[1]
        cap, least = (
            size // weight.element_size()
            for size in (passes * (_CPU_BYTES if x.device.type == "cpu" else _GPU_BYTES), _LEAST_BYTES)
        )
        copied = x.numel() // max(1, x.shape[0])  # the image, copied to be read in order, and its gradient
        pairs = max(1, min(max(passes * (held * 3 // 8 - copied), least), cap) // max(1, values))
        groups = x.shape[1] // weight.shape[1]
        at_once = min(pairs, _AT_ONCE if x.device.type == "cpu" else pairs, weight.shape[0])
        images = max(1, min(x.shape[0], pairs // at_once))
        return cls(images, tuple(_chunks(groups, weight.shape[0] // groups, at_once)))


def _chunks(groups: int, per_group: int, at_once: int) -> Iterator[Chunk]:
    if at_once < per_group:
        for group in range(groups):
            for first in range(0, per_group, at_once):
                last, base = min(first + at_once, per_group), group * per_group
                yield Chunk(slice(group, group + 1), slice(first, last), slice(base + first, base + last))
        return
    step = at_once // per_group
    for group in range(0, groups, step):
        last = min(group + step, groups)
        yield Chunk(slice(group, last), slice(0, per_group), slice(group * per_group, last * per_group))


class Elementwise(NamedTuple):
    """Operations of a dendritic convolution that no multiplication counter sees."""

    additions: int
    comparisons: int


def elementwise_operations(
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    bias_shape: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
) -> Elementwise:
    """The additions of biases and the comparisons with 0, beyond a plain convolution's multiply-accumulates.

    There is one of each for every bias and every input pixel that it meets: N out in/groups H W for biases per pair
    (1 / k² of the multiplications at stride 1), k² times that for biases per tap.
    """
    found = phases(x_shape[2:], weight_shape[2:], stride, padding, dilation, tapwise=len(bias_shape) == 4)
    once = sum(phase.size[0] * phase.size[1] for phase in found)
    count = x_shape[0] * weight_shape[0] * weight_shape[1] * once
    return Elementwise(count, count)
