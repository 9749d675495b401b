"""The dual-tree complex wavelet packet transform of images, with q-shift filters of 10 taps (arXiv:2212.00394).

Four separable trees of real wavelet packets, named by the family of filters down the columns and along the rows: aa,
ab, ba, bb. Their sums and differences are complex packets that are oriented and see only one side of the spectrum:

    Psi_a = (aa - bb) + i (ba + ab)        Psi_b = (aa + bb) + i (ba - ab)

Along one axis, a tree of `depth` stages of filters is a bank of 2**depth filters of 12, 30 or 66 taps (the stages
convolved with one another). Whether a stage subsamples or dilates the next one does not change them. So the whole
transform is one strided convolution down the columns and one along the rows. Packets that nobody reads, and
positions that are dropped later, are never computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import check_choice
from ..contract.precision import Constants, compute_dtype

QSHIFT_A = (
    0.051130405283831656,
    -0.013975370246888838,
    -0.10983605166597087,
    0.26383956105893763,
    0.7666284677930372,
    0.5636557101270515,
    0.0008736226952170968,
    -0.1002312195074762,
    -0.0016896812725281543,
    -0.006181881892116438,
)
"""The low-pass q-shift filter h0a of 10 taps; all others follow from it."""

DEPTHS = (2, 3)
TAPS = {2: 30, 3: 66}
"""Length of the equivalent filters by depth."""

# The filters of Psi_a whose imaginary part is negated, so that all packets mixed together turn the same way. The
# pattern repeats over the packets; for Psi_b it is the other filters.
_NEGATED = {2: "10", 3: "10100000"}

# The pair (low, high) that follows each filter, by family: h1, g1 of tree 1 and h2, g2 of tree 2; h, g are common.
_SUCCESSORS = {
    "h1fs": ("h1", "g1"), "g1fs": ("h2", "g2"), "h2fs": ("h2", "g2"), "g2fs": ("h1", "g1"),
    "h1": ("h1", "g1"), "g1": ("h", "g"), "h2": ("h2", "g2"), "g2": ("h", "g"), "h": ("h", "g"), "g": ("h", "g"),
}  # fmt: skip


@lru_cache(maxsize=1)
def stage_filters() -> dict[str, Tensor]:
    """The filters of a single stage by name, float64: `h..` low-pass, `g..` high-pass, `..fs` for the first stage.

    With h0b the reverse of h0a, g_b[n] = (-1)^(n+1) h0a[n] and g_a[n] = (-1)^n h0b[n]: tree 1 uses (h0b, g_b), tree 2
    (h0a, g_a). In the first stage both use the pair (h0b, g_b), shifted by one sample against each other.
    """
    with torch.device("cpu"), torch.inference_mode(False):
        h0a = torch.tensor(QSHIFT_A, dtype=torch.float64)
        sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(5)
        h0b = h0a.flip(0)
        ga, gb = sign * h0b, -sign * h0a
        return {
            "h1": h0b, "g1": gb, "h2": h0a, "g2": ga, "h": h0b, "g": gb,
            "h1fs": F.pad(h0b, (2, 0)), "h2fs": F.pad(h0b, (1, 1)),
            "g1fs": F.pad(gb, (0, 2)), "g2fs": F.pad(-gb, (1, 1)),
        }  # fmt: skip


@lru_cache(maxsize=8)
def equivalent_filters(depth: int) -> Tensor:
    """Both trees along one axis as plain filters: (2, 2**depth, TAPS[depth]), float64.

    Index 1 counts the low (0) and high (1) of each stage, the first stage first. Used as correlations:
    `y[n] = sum_k f[k] x[stride * n + k]`.
    """
    filters = stage_filters()
    with torch.device("cpu"), torch.inference_mode(False):
        trees = []
        for tree in ("1", "2"):
            rows = [(name, filters[name]) for name in (f"h{tree}fs", f"g{tree}fs")]
            for stage in range(1, depth):
                rows = [(n, _behind(row, filters[n], 2**stage)) for name, row in rows for n in _SUCCESSORS[name]]
            trees.append(torch.stack([row for _, row in rows]))
        return torch.stack(trees)


def _behind(first: Tensor, second: Tensor, spacing: int) -> Tensor:
    """One filter for `first` and then `second`, whose taps lie `spacing` samples of the input apart."""
    whole = first.new_zeros(len(first) + (len(second) - 1) * spacing)
    for index, tap in enumerate(second.tolist()):
        whole[index * spacing : index * spacing + len(first)] += tap * first
    return whole


def transform_padding(depth: int, stride: int) -> int:
    """The zeros on every side of the input in the authors' transform: half of what the stages consume, made even."""
    total, spacing, dilation = 0, 1, 1
    for stage in range(depth):
        taps, step = 10 if stage else 12, 2 if 2**stage < stride else 1
        total += spacing * (dilation * (taps - 1) + 1 - step + 1)
        spacing, dilation = spacing * step, dilation * (1 if step == 2 else 2)
    return total // 4 * 2


@dataclass(frozen=True)
class Bank:
    """The transform of one map for some of its packets: a convolution down the columns, then one along the rows.

    Attributes:
        vertical: (2 R, 1, L, 1), the filters of both trees for each of the R frequency rows that are needed.
        horizontal: (M, 2, 1, L) in R groups; each reads its row through both trees.
        channels: (P, parts), the output channel of each wanted packet's real (and imaginary) part. If rows hold
            different numbers of packets, some of the M channels repeat a packet.
    """

    vertical: Tensor
    horizontal: Tensor
    channels: Tensor


@lru_cache(maxsize=32)
def packet_bank(depth: int, packets: tuple[int, ...], real: bool = False) -> Bank:
    """The filters for the complex packets of these numbers, in float64 on the CPU.

    Packets 0 .. 4**depth - 1 are those of Psi_a, then those of Psi_b. In each stage the four parts are ordered (low,
    low), (low, high), (high, low), (high, high), vertical first. `real`: only the real parts.
    """
    a, b = equivalent_filters(depth)
    places = [_frequency(k % 4**depth, depth) for k in packets]
    rows = sorted({row for row, _ in places})
    members = [[i for i, (r, _) in enumerate(places) if r == row] for row in rows]
    most, parts = max(map(len, members)), 1 if real else 2
    with torch.device("cpu"), torch.inference_mode(False):
        channels = torch.zeros(len(packets), parts, dtype=torch.long)
        horizontal = []
        for group, inside in enumerate(members):
            for slot, i in enumerate(inside + inside[:1] * (most - len(inside))):
                column, psi = places[i][1], packets[i] // 4**depth
                conjugated = (_NEGATED[depth][packets[i] % len(_NEGATED[depth])] == "1") != bool(psi)
                signs = (1.0 if psi else -1.0, -1.0 if psi else 1.0)
                real_part = torch.stack([a[column], signs[0] * b[column]])
                imaginary = torch.stack([signs[1] * b[column], a[column]]) * (-1.0 if conjugated else 1.0)
                horizontal += [real_part, imaginary][:parts]
                if slot < len(inside):
                    channels[i] = (group * most + slot) * parts + torch.arange(parts)
        vertical = torch.stack([tree[row] for row in rows for tree in (a, b)])
        return Bank(vertical[:, None, :, None], torch.stack(horizontal)[:, :, None, :], channels)


def _frequency(packet: int, depth: int) -> tuple[int, int]:
    """The row and column of a packet in the bank of each axis."""
    row = column = 0
    for stage in reversed(range(depth)):
        digit = packet // 4**stage % 4
        row, column = 2 * row + digit // 2, 2 * column + digit % 2
    return row, column


def packet_kernels(bank: Bank) -> Tensor:
    """The wanted packets as two-dimensional kernels: (P, parts, L, L), in the bank's precision."""
    groups = bank.vertical.shape[0] // 2
    horizontal = bank.horizontal[:, :, 0].unflatten(0, (groups, -1))
    vertical = bank.vertical[:, 0, :, 0].unflatten(0, (groups, 2))
    return torch.einsum("gty,gotx->goyx", vertical, horizontal).flatten(0, 1)[bank.channels]


def padded_to(x_NCHW: Tensor, size: tuple[int, int], taps: int, stride: int, start: int) -> Tensor:
    """x padded with zeros, or cut, so that `size` windows of `taps`, the first at -`start`, fit exactly."""
    (height, width), (rows, columns) = x_NCHW.shape[-2:], size
    behind = [stride * (n - 1) + taps - start - side for n, side in ((columns, width), (rows, height))]
    return F.pad(x_NCHW, (start, behind[0], start, behind[1]))


def analyse(
    y_N1HW: Tensor, vertical: Tensor, horizontal: Tensor, size: tuple[int, int], stride: int, start: int
) -> Tensor:
    """A bank applied to single maps: (N, 1, H, W) -> (N, M, *size). The first window begins at pixel -`start`."""
    y = padded_to(y_N1HW, size, vertical.shape[2], stride, start)
    y = F.conv2d(y, vertical.to(y.dtype), stride=(stride, 1))
    return F.conv2d(y, horizontal.to(y.dtype), stride=(1, stride), groups=vertical.shape[0] // 2)


class BankConstants(Constants):
    """Constants some of which are whole numbers, which keep their type. For use beside `nn.Module`."""

    def _placed(self, value: Tensor) -> Tensor:
        weight = cast(Tensor, cast(Any, self).weight)
        dtype = compute_dtype(weight.dtype) if value.is_floating_point() else value.dtype
        return value.to(device=weight.device, dtype=dtype, copy=True)


class DtCwpt2d(BankConstants, nn.Module):
    """The complete transform: (N, C, H, W) -> (N, C * 4 * 4**depth, H', W'), `H' = (H + 2 p - L) // stride + 1`.

    L is `TAPS[depth]`, p is `transform_padding(depth, stride)`. The channels of each input channel stand together:
    4**depth packets of Psi_a, then of Psi_b, each as (real, imaginary). The energy of a complex kernel is 4. Both axes
    are treated equally (the authors' code mixes up the pixels of inputs that are not square). There are no parameters;
    the filters are kept in at least float32.

    Args:
        depth: 2 or 3 stages.
        stride: 1, 2, 4, .. up to 2**depth; less than that is an undecimated ("a trous") transform.

    Raises:
        ValueError: `depth` or `stride` is not allowed.
    """

    vertical: Tensor
    horizontal: Tensor
    order: Tensor

    def __init__(
        self,
        depth: int = 2,
        stride: int = 2,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_choice("depth", depth, DEPTHS)
        check_choice("stride", stride, [2**n for n in range(depth + 1)])
        super().__init__()
        self.depth, self.stride, self.padding = depth, stride, transform_padding(depth, stride)
        self.register_buffer("vertical", torch.empty(0, device=device, dtype=dtype), persistent=False)
        self.register_constants()

    @property
    def weight(self) -> Tensor:
        """The filters down the columns. They show the module's device and precision."""
        return self.vertical

    def constants(self) -> dict[str, Tensor]:
        """Both filter banks, and the position of each packet's parts in their output."""
        bank = packet_bank(self.depth, tuple(range(2 * 4**self.depth)))
        return {"vertical": bank.vertical, "horizontal": bank.horizontal, "order": bank.channels.flatten()}

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Every packet of every channel."""
        n, channels, height, width = x_NCHW.shape
        rows, columns = ((side + 2 * self.padding - TAPS[self.depth]) // self.stride + 1 for side in (height, width))
        maps = x_NCHW.reshape(n * channels, 1, height, width)
        y = analyse(maps, self.vertical, self.horizontal, (rows, columns), self.stride, self.padding)
        return y[:, self.order].reshape(n, -1, rows, columns)

    def extra_repr(self) -> str:
        """Depth and stride."""
        return f"depth={self.depth}, stride={self.stride}"
