"""The frequency filter as in its authors' code: full complex transforms, shifted, the spectrum rebuilt in each call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .complex_numbers import without_autocast


class Frequency(nn.Module):
    """`Re ifft2(ifftshift(M (R * fftshift(fft2 x)))) + b`, R from two MLPs of 1x1 convolutions on the whole grid.

    Two things differ from their code: the shifts leave batch and channels alone, and maps need not be square.
    """

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.form, self.channels = unit.form, (unit.in_channels, unit.out_channels)
        self.real, self.imag = unit.spectrum.real.layers, unit.spectrum.imag.layers
        self.pointwise, self.bias = unit.pointwise, unit.bias

    @staticmethod
    def evaluate(layers: nn.ModuleList, grid: Tensor) -> Tensor:
        """An MLP on (1, 2, H, W), as 1x1 convolutions."""
        for index, layer in enumerate(layers):
            grid = F.conv2d(grid, layer.weight[:, :, None, None], layer.bias)
            grid = F.silu(grid) if index < len(layers) - 1 else grid
        return grid[0]

    def response(self, x: Tensor) -> Tensor:
        """The centred spectrum (maps, H, W)."""
        height, width = x.shape[-2:]
        place: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
        u = torch.arange(-width / 2, width / 2, **place).expand(height, width)
        v = torch.arange(-height / 2, height / 2, **place)[:, None].expand(height, width)
        grid = torch.stack([u, v])[None]
        return torch.complex(self.evaluate(self.real, grid), self.evaluate(self.imag, grid))

    @without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H, W)."""
        spectrum = torch.fft.fftshift(torch.fft.fft2(x), dim=(-2, -1))
        if self.form == "full":
            spectrum = torch.einsum("bihw,iohw->bohw", spectrum, self.response(x).unflatten(0, self.channels))
        else:
            spectrum = self.response(x) * spectrum
        if self.pointwise is not None:
            matrix = self.pointwise.weight[:, :, 0, 0]
            parts = [F.linear(part.permute(0, 2, 3, 1), matrix) for part in (spectrum.real, spectrum.imag)]
            spectrum = torch.complex(*parts).permute(0, 3, 1, 2)
        y = torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1))).real
        return y if self.bias is None else y + self.bias[:, None, None]
