"""Spectra of kernels and of feature maps.

Kernels: padded with zeros to n x n, |FFT|^2, the phase dropped, averaged over kernels of unit length; over rings of
width 1 / n cycles a pixel; and as single numbers. The definition is our own. Feature maps: mean log amplitude by
radial frequency relative to the mean map's, as in "How do vision transformers work?" (arXiv:2202.06709).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageError, check_choice

SECTORS = 8
_POINTS = 1 << 19
"""Points of the spectra taken at once, few enough for the caches."""


@dataclass(frozen=True)
class KernelSpectrum:
    """The mean spectrum of kernels.

    Attributes:
        power: (n, n), mean |FFT|^2 with frequency 0 at (n // 2, n // 2).
        frequency: (rings,), in cycles a pixel.
        radial: (rings,), mean of the power over each ring.
        centroid: mean frequency, weighted with the power.
        high: the part of the power above 0.25 cycles a pixel.
        dc: mean |FFT| at frequency 0.
        orientation: (8,), the part of the power in sectors of 22.5 degrees, the first around horizontal frequencies
            (vertical stripes), without frequency 0.
        kernels: how many were averaged: all that are not zero.
    """

    power: Tensor
    frequency: Tensor
    radial: Tensor
    centroid: float
    high: float
    dc: float
    orientation: Tensor
    kernels: int


def kernel_spectrum(kernels: Tensor, *, size: int = 64, normalize: str = "l2") -> KernelSpectrum:
    """The mean spectrum of kernels (.., H, W).

    Args:
        kernels: real. Kernels of zeros are left out.
        size: n; spectra have n x n points.
        normalize: `"l2"` (each kernel to length 1), `"max"` (each kernel's largest |FFT| is 1) or `"none"`.

    Raises:
        ValueError: kernels larger than `size`, all zero, or an unknown `normalize`.
    """
    check_choice("normalize", normalize, ("l2", "max", "none"))
    if kernels.dim() < 2 or max(kernels.shape[-2:]) > size:
        raise UsageError(f"kernels of shape {tuple(kernels.shape)} do not fit into size={size!r}")
    flat = kernels.detach().cpu().double().reshape(-1, *kernels.shape[-2:])
    flat = flat[flat.abs().amax((1, 2)) > 0]
    if not len(flat):
        raise UsageError("all kernels are zero: they have no spectrum")
    half, dc = flat.new_zeros(size, size // 2 + 1), 0.0  # the other half of a real kernel's spectrum mirrors it
    for chunk in flat.split(max(1, _POINTS // size**2)):
        if normalize == "l2":
            chunk = chunk / chunk.flatten(1).norm(dim=1)[:, None, None]
        energy = torch.view_as_real(torch.fft.rfft2(chunk, s=(size, size))).square().sum(-1)
        if normalize == "max":
            energy = energy / energy.amax((1, 2))[:, None, None]
        half += energy.sum(0)
        dc += float(energy[:, 0, 0].sqrt().sum())
    power = torch.fft.fft2(torch.fft.irfft2(half, s=(size, size))).real.clamp_min(0)
    return _summary(torch.fft.fftshift(power / len(flat)), dc / len(flat), len(flat))


def _summary(power: Tensor, dc: float, count: int) -> KernelSpectrum:
    size = len(power)
    line = torch.fft.fftshift(torch.fft.fftfreq(size, dtype=torch.float64))
    radius = torch.hypot(line[:, None], line[None])
    frequency, radial = _rings(power, radius, size)
    # Frequency (y, x) and its opposite are the same wave, so directions run over half a turn.
    angle = torch.atan2(line[:, None].expand(size, size), line[None].expand(size, size))
    sector = (angle / math.pi * SECTORS).round().long().remainder(SECTORS)
    moving = radius > 0
    orientation = torch.zeros(SECTORS, dtype=torch.float64).index_add(0, sector[moving], power[moving])
    total = power.sum()
    return KernelSpectrum(
        power,
        frequency,
        radial,
        float((radius * power).sum() / total),
        float(power[radius > 0.25].sum() / total),
        dc,
        orientation / orientation.sum().clamp_min(1e-300),
        count,
    )


def _rings(values: Tensor, radius: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The mean of values over rings of width 1 / size, and the frequency of each."""
    ring = (radius * size).round().long().flatten()
    count = torch.bincount(ring)
    total = torch.zeros(len(count), dtype=values.dtype).index_add(0, ring, values.flatten())
    return torch.arange(len(count), dtype=torch.float64) / size, total / count


@dataclass(frozen=True)
class MapSpectrum:
    """The spectrum of a layer's feature maps.

    Attributes:
        frequency: (rings,), in cycles a pixel of the map.
        log_amplitude: (rings,), mean log10 amplitude of each ring minus that at frequency 0.
        maps: how many were averaged: all that are not zero.
    """

    frequency: Tensor
    log_amplitude: Tensor
    maps: int

    @property
    def at_half(self) -> float:
        """The value at the highest frequency that both axes have, 0.5 cycles a pixel."""
        return float(self.log_amplitude[int((self.frequency - 0.5).abs().argmin())])


def map_spectrum(maps: Tensor) -> MapSpectrum:
    """Mean log10 amplitude by radial frequency of feature maps (N, C, H, W), relative to frequency 0.

    A millionth of the largest amplitude is added before the logarithm. Maps of zeros are left out.

    Raises:
        ValueError: not a batch of maps of more than one pixel, or all are zero.
    """
    if maps.dim() != 4 or min(maps.shape[2:]) < 2:
        raise UsageError(f"maps of shape {tuple(maps.shape)} have no spectrum; give (N, C, H, W) from 2x2")
    flat = maps.detach().cpu().double().flatten(0, 1)
    flat = flat[flat.abs().amax((1, 2)) > 0]
    if not len(flat):
        raise UsageError("all feature maps are zero: they have no spectrum")
    height, width = flat.shape[1:]
    amplitude = torch.fft.fft2(flat).abs()
    mean = (amplitude + 1e-6 * amplitude.max()).log10().mean(0)
    rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64) for n in (height, width))
    frequency, values = _rings(mean, torch.hypot(rows[:, None], columns[None]), min(height, width))
    return MapSpectrum(frequency, values - mean[0, 0], len(flat))


def map_spectra(maps: Mapping[str, Tensor]) -> dict[str, MapSpectrum]:
    """`map_spectrum` of every layer whose output is a batch of maps of more than one pixel and not all zero."""
    fit = {name: m for name, m in maps.items() if m.dim() == 4 and min(m.shape[2:]) > 1 and bool((m != 0).any())}
    return {name: map_spectrum(m) for name, m in fit.items()}
