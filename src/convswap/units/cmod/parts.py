"""Parts of the complex-wavelet stem: its layouts, the wavelet channels, the modulus, and what follows it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contract.precision import compute_dtype
from .wavelets import (
    TAPS,
    BankConstants,
    analyse,
    packet_bank,
    packet_kernels,
    padded_to,
)

Size = tuple[int, int]


@dataclass(frozen=True)
class Selection:
    """The packets that are read, their order, and how they are mixed: part by part, each in groups.

    Attributes:
        packets: numbers of the packets (`packet_bank`), in the order the parts read them.
        inputs, outputs, groups: of each part; a group's outputs read that group's packets only.
    """

    packets: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    groups: tuple[int, ...]

    def times(self, factor: int) -> Selection:
        """The same packets with this many times the outputs."""
        return replace(self, outputs=tuple(n * factor for n in self.outputs))

    def columns(self) -> Tensor:
        """The position of each packet's weight among all mixing weights, or -1: (outputs, packets)."""
        rows, before, first = torch.full((sum(self.outputs), len(self.packets)), -1, dtype=torch.long), 0, [0, 0]
        for inputs, outputs, groups in zip(self.inputs, self.outputs, self.groups, strict=True):
            fan_in = inputs // groups
            for o in range(outputs):
                start = first[1] + o // (outputs // groups) * fan_in
                rows[first[0] + o, start : start + fan_in] = before + o * fan_in + torch.arange(fan_in)
            before, first = before + outputs * fan_in, [first[0] + outputs, first[1] + inputs]
        return rows


@dataclass(frozen=True)
class Arch:
    """The stem of a family of hosts.

    Attributes:
        kernel, stride, padding: of its convolution; pool_padding: of the 3x3 max-pool of stride 2 behind it.
        batch_norm: has a BatchNorm; if not, its convolution has a bias.
        depth: of the transform; start: how far before the image its first window begins.
        wavelet_channels: of 64, in the paper.
        luminance: initial weights that mix red, green and blue.
        selections: by the values of the option `packets`, the default first.
    """

    kernel: int
    stride: int
    padding: int
    pool_padding: int
    batch_norm: bool
    depth: int
    start: int
    wavelet_channels: int
    luminance: tuple[float, float, float]
    selections: Mapping[str, Selection]

    def maps(self, side: int, stride: int) -> int:
        """The convolution's output side."""
        return (side + 2 * self.padding - self.kernel) // stride + 1

    def pooled(self, side: int) -> int:
        """The side of the host's stem's output."""
        return (self.maps(side, self.stride) + 2 * self.pool_padding - 3) // 2 + 1


_RESNET = MappingProxyType(
    {
        "excluded": Selection(
            (1, 2, 19, 17, 18, 3, 5, 23, 10, 27, 31, 7, 21, 11, 26, 15),
            (6, 4, 1, 4, 1), (12, 4, 2, 4, 2), (6, 4, 1, 4, 1),
        ),
        "full": Selection(
            (1, 2, 19, 17, 18, 3, 5, 6, 20, 23, 9, 10, 24, 27, 13, 14, 28, 31, 4, 7, 21, 22, 8, 11, 25, 26, 12, 15,
             29, 30),
            (6, 24), (12, 12), (6, 6),
        ),
    }
)  # fmt: skip
_ALEXNET = MappingProxyType(
    {
        "full": Selection(
            (1, 2, 67, 65, 66, 3, 4, 5, 70, 71, 8, 10, 73, 75, 76, 77, 78, 79, 6, 7, 68, 69, 9, 11, 72, 74, 12, 13, 14,
             15, 17, 18, 20, 21, 24, 26, 80, 83, 86, 87, 89, 91, 92, 93, 94, 95, 33, 34, 36, 37, 40, 42, 96, 99, 102,
             103, 105, 107, 108, 109, 110, 111, 16, 19, 22, 23, 25, 27, 28, 29, 30, 31, 81, 82, 84, 85, 88, 90, 32, 35,
             38, 39, 41, 43, 44, 45, 46, 47, 97, 98, 100, 101, 104, 106),
            (6, 24, 64), (6, 18, 8), (6, 6, 4),
        ),
    }
)  # fmt: skip
ARCHES = MappingProxyType(
    {
        "resnet": Arch(7, 2, 3, 1, True, 2, 14, 24, (0.9802, 1.306, 0.7138), _RESNET),
        "alexnet": Arch(11, 4, 2, 0, False, 3, 30, 32, (1.0036, 1.163, 0.8334), _ALEXNET),
    }
)
"""By the values of the option `arch`. AlexNet's transform pads 34 zeros. The authors then cut one sample of 4 pixels
from each side of its output, so it starts at 30."""


class WaveletMaps(BankConstants, nn.Module):
    """The wavelet channels: luminance, packets, mix. (N, in, H, W) and an output size to (N, W or 2 W, *size).

    `y_o = sum_k mix[o, k] (x_luminance * psi_k)` with the same real weights for the real and the imaginary parts. The
    real parts of all outputs come first, then the imaginary ones; with `real` there are only real parts.

    Attributes:
        weight: (1, in, 1, 1), how the input channels add up to a luminance.
        mix0, mix1, ..: for each part of the selection (outputs, packets a group).
        bias: (W,) or None; only with `real`.
    """

    vertical: Tensor
    horizontal: Tensor
    columns: Tensor

    def __init__(
        self,
        in_channels: int,
        depth: int,
        selection: Selection,
        *,
        stride: int,
        start: int,
        real: bool,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.depth, self.selection, self.real = depth, selection, real
        self.stride, self.start, self.taps = stride, start, TAPS[depth]
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        parts = zip(selection.inputs, selection.outputs, selection.groups, strict=True)
        self.weight = nn.Parameter(torch.empty(1, in_channels, 1, 1, **place))
        for index, (inputs, outputs, groups) in enumerate(parts):
            self.register_parameter(f"mix{index}", nn.Parameter(torch.empty(outputs, inputs // groups, **place)))
        self.bias = nn.Parameter(torch.empty(sum(selection.outputs), **place)) if bias else None
        self.register_constants()

    @property
    def mix(self) -> list[nn.Parameter]:
        """The mixing weights of every part."""
        return [cast(nn.Parameter, getattr(self, f"mix{index}")) for index in range(len(self.selection.inputs))]

    @torch.no_grad()
    def reset_parameters(self, luminance: tuple[float, ...]) -> None:
        """Luminance as given; mixing weights, and biases, as a convolution's: U(-b, b) with b = fan_in**-0.5."""
        self.weight.copy_(torch.tensor(luminance, dtype=torch.float64, device="cpu").view(1, -1, 1, 1))
        for weight in self.mix:
            weight.uniform_(-(bound := weight.shape[1] ** -0.5), bound)
        if self.bias is not None:
            bounds = [weight.new_full((len(weight),), weight.shape[1] ** -0.5) for weight in self.mix]
            self.bias.uniform_(-1, 1).mul_(torch.cat(bounds))

    def constants(self) -> dict[str, Tensor]:
        """The filters, and for each output and packet channel the mixing weight (the last stands for 0) it takes."""
        bank = packet_bank(self.depth, self.selection.packets, self.real)
        columns = _mixing_columns(self.depth, self.selection, self.real)
        return {"vertical": bank.vertical, "horizontal": bank.horizontal, "columns": columns}

    def mixing(self) -> Tensor:
        """All mixing weights as one matrix from packet channels: (parts * W, M)."""
        flat = torch.cat([weight.flatten() for weight in self.mix])
        return F.pad(flat, (0, 1))[self.columns]

    def forward(self, x_NCHW: Tensor, size: Size) -> Tensor:
        """The wavelet channels; window n begins at pixel `stride * n - start`."""
        y = F.conv2d(x_NCHW, self.weight)
        y = analyse(y, self.vertical, self.horizontal, size, self.stride, self.start)
        return F.conv2d(y, self.mixing()[:, :, None, None], self.bias)

    def kernels(self) -> Tensor:
        """The same as one convolution's weight, (parts * W, in, L, L), in the module's precision."""
        parts = packet_kernels(packet_bank(self.depth, self.selection.packets, self.real))
        used = torch.zeros(
            len(self.horizontal), self.taps, self.taps, dtype=self.weight.dtype, device=self.weight.device
        )
        channels = packet_bank(self.depth, self.selection.packets, self.real).channels
        used[channels.flatten().to(used.device)] = parts.flatten(0, 1).to(used)
        mixed = torch.einsum("om,myx->oyx", self.mixing(), used)
        return mixed[:, None] * self.weight[0, :, 0, 0][:, None, None]

    def extra_repr(self) -> str:
        """Shapes and stride."""
        outputs = f"{sum(self.selection.outputs)} {'real' if self.real else 'complex'}"
        return f"{self.weight.shape[1]}, {outputs}, packets={len(self.selection.packets)}, stride={self.stride}"


@lru_cache(maxsize=32)
def _mixing_columns(depth: int, selection: Selection, real: bool) -> Tensor:
    """For each output's part and packet channel, the place of its weight; one past the last if there is none."""
    bank = packet_bank(depth, selection.packets, real)
    with torch.device("cpu"), torch.inference_mode(False):
        weights = selection.columns()
        none = int(weights.max()) + 1
        parts = bank.channels.shape[1]
        columns = torch.full((parts, len(weights), len(bank.horizontal)), none)
        for part in range(parts):
            columns[part][:, bank.channels[:, part]] = weights.where(weights >= 0, none)
        return columns.flatten(0, 1)


class WaveletConv2d(nn.Conv2d):
    """`WaveletMaps` as one plain strided convolution, perhaps of the middle of the kernels only.

    Attributes:
        cut: the part of the kernels that is left out, `||outside|| / ||whole||`, the largest over the filters. The
            error of an output is at most the norm of the part outside times the norm of the pixels there.
    """

    def __init__(self, maps: WaveletMaps, kernel_size: int | None) -> None:
        side = maps.taps if kernel_size is None else kernel_size
        exact = maps.kernels()
        first = (maps.taps - side) // 2
        middle = exact[:, :, first : first + side, first : first + side]
        bias = maps.bias is not None
        super().__init__(
            exact.shape[1], len(exact), side, maps.stride, bias=bias, device=exact.device, dtype=exact.dtype
        )
        with torch.no_grad():
            self.weight.copy_(middle)
            if self.bias is not None and maps.bias is not None:
                self.bias.copy_(maps.bias)
            whole, kept = (k.double().square().sum((1, 2, 3)) for k in (exact, middle))
            rest = (1 - kept / whole.clamp_min(1e-300)).clamp_min(0) if side < maps.taps else torch.zeros(1)
            self.cut = math.sqrt(float(rest.max()))
        self.start = maps.start - first

    def forward(self, input: Tensor, size: Size) -> Tensor:  # type: ignore[override]
        """(N, in, H, W) -> (N, out, *size)."""
        x = padded_to(input, size, self.kernel_size[0], self.stride[0], self.start)
        return F.conv2d(x, self.weight, self.bias, self.stride)

    def extra_repr(self) -> str:
        """The geometry, and what is cut off."""
        return f"{super().extra_repr()}, cut={self.cut:.2g}"


def modulus(z_NCHW: Tensor) -> Tensor:
    """|z| of (N, 2 C, H, W), real parts first: (N, C, H, W). The gradient at z = 0 is 0."""
    real, imaginary = z_NCHW.to(compute_dtype(z_NCHW.dtype)).chunk(2, 1)
    squared = real * real + imaginary * imaginary
    return squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt().to(z_NCHW.dtype)


class GaborBatchNorm2d(nn.Module):
    """Batch normalisation of a modulus: `y = |weight| x / sqrt(E[x^2] / 2 + eps) + bias`, E over batch and pixels.

    x is the modulus of a complex signal of mean zero, so E[x^2] / 2 is the variance of one of its components. The
    modulus itself is not centred. Evaluation uses `running_energy`, the moving average of E (biased, starts at 1).

    It is not an `nn.BatchNorm2d`, so tools that replace those, such as `convert_sync_batchnorm`, leave it unchanged.
    """

    running_energy: Tensor
    num_batches_tracked: Tensor
    track_running_stats = True

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(num_features, device=device, dtype=dtype))
        self.register_buffer("running_energy", torch.ones(num_features, device=device, dtype=dtype))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long, device=device))

    def reset_running_stats(self) -> None:
        """Reset the running energy and its count."""
        self.running_energy.fill_(1)
        self.num_batches_tracked.zero_()

    def scale(self, energy: Tensor) -> Tensor:
        """The factor for each channel; never negative."""
        return self.weight.abs() * torch.rsqrt(energy / 2 + self.eps)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        energy = self.running_energy
        if self.training and x_NCHW.numel():  # an empty batch has no energy and must not change the average
            energy = x_NCHW.to(compute_dtype(x_NCHW.dtype)).square().mean((0, 2, 3))
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                seen = energy.detach().to(self.running_energy.dtype)
                if self.momentum is None:  # the average of all batches
                    step = (seen - self.running_energy) / self.num_batches_tracked
                    self.running_energy.add_(step.to(seen.dtype))
                else:
                    self.running_energy.lerp_(seen, self.momentum)
        y = x_NCHW * self.scale(energy)[:, None, None] + self.bias[:, None, None]
        return y.to(x_NCHW.dtype)

    def extra_repr(self) -> str:
        """As `nn.BatchNorm2d` prints it."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class ChannelBias(nn.Module):
    """`x + bias`, one number per channel, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Add it."""
        return x_NCHW + self.bias[:, None, None]


class BlurPool2d(nn.Module):
    """Every second pixel of x filtered by [1, 2, 1] x [1, 2, 1] / 16, the border mirrored: sides halve, rounded up.

    (arXiv:1904.11486.) Two means of 2x2 pixels are that filter. A map of one row or column is repeated, not mirrored.
    """

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
        mode = "reflect" if min(x_NCHW.shape[-2:]) > 1 else "replicate"
        return F.avg_pool2d(F.avg_pool2d(F.pad(x_NCHW, (1, 1, 1, 1), mode), 2, 1), 2, 2)
