"""Convolution in the frequency domain, shared by the NIFF unit and its inference form."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...hooks import Hooks
from ..contract.precision import compute_dtype
from .spectrum import Size, Spectrum, linear_size, linear_spectrum, real_fft

_MIX = "bihw,iohw->bohw"


class FrequencyConvolution(Hooks):
    """The forward pass that the unit and its inference form share."""

    form: str
    boundary: str
    in_channels: int
    out_channels: int
    spectrum: Spectrum
    pointwise: nn.Conv2d | None
    bias: nn.Parameter | None
    training: bool

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W), or (in, H, W), -> (N, out, H, W).

        Raises:
            ValueError: an input of another shape or, without autocast, another type than the weights.
        """
        if input.dim() not in (3, 4) or input.shape[-3] != self.in_channels:
            raise UsageError(_other_shape(input, self.in_channels))
        x = input if input.dim() == 4 else input.unsqueeze(0)
        device, wanted = x.device.type, self.spectrum.real.last.weight.dtype
        if device == "meta" or not torch.is_autocast_enabled(device):
            if x.dtype != wanted:
                raise UsageError(f"an input of {x.dtype} is not allowed; the weights are {wanted}")
            y = self._filter(x)
        else:
            wanted = torch.get_autocast_dtype(device)
            with torch.autocast(device, enabled=False):
                y = self._filter(x)
        if y.dtype != wanted:
            y = y.to(wanted)
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
            y = y.contiguous(memory_format=torch.channels_last)
        if self.pointwise is not None:
            y = self.pointwise(y)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)[:, None, None]
        return y if input.dim() == 4 else y.squeeze(0)

    def _filter(self, x: Tensor) -> Tensor:
        """The convolution with the spectrum, in at least float32."""
        # torch 2.14's FFT refuses empty batches; one map of zeros keeps shapes and gradients.
        if x.shape[0] == 0:  # len() would fix the batch size in an export
            return self._filter(torch.cat([x, x.new_zeros(1, *x.shape[1:])]))[:0]
        dtype = compute_dtype(self.spectrum.real.last.weight.dtype)
        x = x.to(dtype)
        height, width = size = cast(Size, tuple(x.shape[-2:]))
        if torch.jit.is_tracing():  # sizes are tensors then, and a graph is for one size
            height, width = size = int(height), int(width)
        if self.boundary == "circular":
            response = self._stored(x, lambda: self.spectrum(size, dtype))
            return torch.fft.irfft2(self._multiply(real_fft(x, size), response), s=size)
        padded = linear_size(size)
        response = self._stored(x, lambda: linear_spectrum(self.spectrum.kernels(size, dtype), padded))
        y = torch.fft.irfft2(self._multiply(real_fft(x, padded), response), s=padded)
        return y[..., height // 2 : height // 2 + height, width // 2 : width // 2 + width]

    def filters(self, size: Size, dtype: torch.dtype = torch.float64) -> Tensor:
        """The filters before the 1x1 convolution of the split form, (maps, *size), centre at (0, 0)."""
        return self.spectrum.kernels(size, dtype)

    def _stored(self, x: Tensor, evaluate: Any) -> Tensor:
        return self.spectrum.stored((*x.shape[-2:], self.boundary, x.dtype, x.device), x, evaluate)

    def _multiply(self, x: Tensor, response: Tensor) -> Tensor:
        if self.form != "full":
            return x * response
        maps = response.unflatten(0, (self.in_channels, self.out_channels))
        if torch.onnx.is_in_onnx_export():  # ONNX has no product of complex matrices
            real, imaginary = ((x.real, maps.real), (x.imag, maps.imag)), ((x.real, maps.imag), (x.imag, maps.real))
            (rr, ii), (ri, ir) = ([torch.einsum(_MIX, *pair) for pair in pairs] for pairs in (real, imaginary))
            return torch.complex(rr - ii, ri + ir)
        return torch.einsum(_MIX, x, maps)


def stacked_filters(unit: FrequencyConvolution, size: Size, dtype: torch.dtype) -> Tensor:
    """The kernels that stand before a 1x1 convolution, if any: (out or in, in/groups or 1, H, W)."""
    kernels = unit.spectrum.kernels(size, dtype)
    if unit.form == "full":
        return kernels.unflatten(0, (unit.in_channels, unit.out_channels)).transpose(0, 1)
    return kernels[:, None]


def combined_kernel(unit: FrequencyConvolution, size: Size, dtype: torch.dtype) -> Tensor:
    """(out, in/groups, H, W), with the 1x1 convolution multiplied in; index (0, 0) is displacement 0."""
    kernels = stacked_filters(unit, size, dtype)
    if unit.pointwise is None:
        return kernels
    return unit.pointwise.weight.to(dtype) * kernels[:, 0]


def _other_shape(input: Tensor, channels: int) -> str:
    """The error text for an input that a convolution refuses, but whose product with a spectrum might broadcast."""
    return f"an input of shape {tuple(input.shape)} is not allowed; give (N, {channels}, H, W) or ({channels}, H, W)"
