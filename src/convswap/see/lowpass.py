"""Does a strided layer smooth before it drops pixels? DC gain, and the energy it lets through above the new Nyquist.

The measures proposed for the claim of the VGNet paper (arXiv:2207.10318) that strided depthwise layers learn low-pass
filters; they are ours, not the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageError
from .kernels import LayerKernels

_SIZE = 64


def dc_gain(kernels: Tensor) -> Tensor:
    """|sum w| / sum |w| of kernels (.., H, W): 1 for weights of one sign, 0 for an edge filter, NaN for zeros."""
    w = kernels.detach().double()
    return w.sum((-2, -1)).abs() / w.abs().sum((-2, -1))


def aliasing_energy(kernels: Tensor, stride: int | tuple[int, int] = 2, *, size: int = _SIZE) -> Tensor:
    """The part of the energy of kernels (.., H, W) outside |f| < 1 / (2 stride), in cycles a pixel, on either axis.

    That energy folds back onto lower frequencies when only every stride-th pixel is kept. The spectrum is taken at
    `size` x `size` points. A kernel of zeros gives NaN.

    Raises:
        ValueError: a stride below 1; a size below the kernel's.
    """
    strides = (stride, stride) if isinstance(stride, int) else stride
    if min(strides) < 1:
        raise UsageError(f"stride={stride!r} is not allowed; give whole numbers of at least 1")
    if max(kernels.shape[-2:]) > size:
        raise UsageError(f"size={size!r} is below the kernels' {tuple(kernels.shape[-2:])}")
    w = kernels.detach().double()
    rows, columns = (_pass_band(length, s, size) for length, s in zip(w.shape[-2:], strides, strict=True))
    # Parseval: both energies are quadratic forms of the taps, so no spectrum has to be computed.
    passed = (rows @ w @ columns * w).sum((-2, -1))
    return (1 - passed / w.square().sum((-2, -1))).clamp(0, 1)


def _pass_band(length: int, stride: int, size: int) -> Tensor:
    """B with w' B w = energy of `length` taps w below the new Nyquist: B[i, j] = mean over the `size` frequencies f of
    [|f| < 1 / (2 stride)] cos(2 pi f (i - j))."""
    frequency = torch.fft.fftfreq(size, dtype=torch.float64)
    kept = frequency[frequency.abs() < 1 / (2 * stride)]
    taps = torch.arange(length, dtype=torch.float64)
    angle = 2 * torch.pi * kept * (taps[:, None] - taps)[..., None]
    return angle.cos().sum(-1) / size


def spread(kernels: Tensor, dilation: tuple[int, int]) -> Tensor:
    """Kernels with the gaps of a dilation written out as zeros."""
    if dilation == (1, 1):
        return kernels
    height, width = (d * (k - 1) + 1 for k, d in zip(kernels.shape[-2:], dilation, strict=True))
    wide = kernels.new_zeros(*kernels.shape[:-2], height, width)
    wide[..., :: dilation[0], :: dilation[1]] = kernels
    return wide


@dataclass(frozen=True)
class LowPass:
    """How much of a low-pass filter a layer's kernels are.

    Attributes:
        name, role: the layer's.
        stride: stride for which the aliasing is measured: the layer's, or 2 for a layer that keeps the size.
        gain: (kernels,), the DC gain of each.
        aliasing: (kernels,), the energy above the new Nyquist of each.
    """

    name: str
    role: str
    stride: tuple[int, int]
    gain: Tensor
    aliasing: Tensor

    @property
    def mean_gain(self) -> float:
        """Mean over the kernels that are not zero."""
        return float(self.gain.nanmean())

    @property
    def mean_aliasing(self) -> float:
        """Mean over the kernels that are not zero."""
        return float(self.aliasing.nanmean())


def low_pass(layers: Sequence[LayerKernels], *, limit: int = 8192) -> list[LowPass]:
    """DC gain and aliasing energy of each layer, for at most `limit` kernels of it, evenly spaced.

    Layers of stride 1 are measured as if they had stride 2, so that strided layers can be compared with them.
    """
    found = []
    for layer in layers:
        stride = layer.stride if layer.strided else (2, 2)
        kernels = spread(evenly(layer.kernels, limit), layer.dilation)
        size = max(_SIZE, *kernels.shape[-2:])
        aliasing = aliasing_energy(kernels, stride, size=size)
        found.append(LowPass(layer.name, layer.role, stride, dc_gain(kernels), aliasing))
    return found


def evenly(kernels: Tensor, limit: int) -> Tensor:
    """At most `limit` of the first dimension, evenly spaced over it."""
    count = len(kernels)
    return kernels if count <= limit else kernels[torch.linspace(0, count - 1, limit).round().long()]
