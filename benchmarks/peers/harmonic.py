"""The harmonic block as one would write it down: filters formed in every pass, a complex convolution for each pair."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .complex_numbers import without_autocast

Streams = list[tuple[Tensor, Tensor]]


class Convolution(nn.Module):
    """`Y_o = sum_i F_{o-i} * X_i`, `F_m = e^{-i beta} sum_r R[r] B_m[r]`, by four real convolutions for every pair."""

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.weight, self.phase, self.max_order = conv.weight, conv.phase, conv.max_order
        maps = conv.bases[:, : conv.rings].unflatten(2, (2, *conv.kernel_size))
        self.register_buffer("re", maps[:, :, 0])
        self.register_buffer("im", maps[:, :, 1])

    def filters(self) -> list[Tensor]:
        """For every order m, complex (out, in, k, k)."""
        turned = self.weight * torch.exp(-1j * self.phase)[..., None]
        bases = torch.complex(self.re, self.im)  # type: ignore[arg-type]
        return [torch.einsum("oir,rkl->oikl", *pair) for pair in zip(turned, bases, strict=True)]

    def forward(self, maps: Streams) -> Streams:
        """Every output order from every input order, (N, C, H, W) -> (N, C', H, W)."""
        filters, found = self.filters(), []
        for o in range(self.max_order + 1):
            re, im = maps[0][0].new_zeros(()), maps[0][0].new_zeros(())
            for i, (a, b) in enumerate(maps):
                w = filters[abs(o - i)]
                real, imaginary = w.real, w.imag if o >= i else -w.imag
                re = re + F.conv2d(a, real, padding="same") - F.conv2d(b, imaginary, padding="same")
                im = im + F.conv2d(a, imaginary, padding="same") + F.conv2d(b, real, padding="same")
            found.append((re, im))
        return found


class Harmonic(nn.Module):
    """Lift with an imaginary part of zeros, C-ReLU, convolve, add up the normalised magnitudes and the input."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.pool, self.lift, self.cross = unit.pool, Convolution(unit.lift), Convolution(unit.cross)
        self.bias, self.norm, self.shortcut = unit.act.bias, unit.norm.norm, unit.shortcut

    @without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        x = self.pool(x)
        lifted, rectified = self.lift([(x, torch.zeros_like(x))]), []
        for (re, im), bias in zip(lifted, self.bias.chunk(len(lifted)), strict=True):
            size = (re.square() + im.square()).clamp(min=1e-4).sqrt()
            gate = F.relu(size + bias[:, None, None]) / size
            rectified.append((re * gate, im * gate))
        crossed = self.cross(rectified)
        sizes = torch.cat([(re.square() + im.square()).clamp(min=1e-4).sqrt() for re, im in crossed], 1)
        y = torch.stack(F.relu(self.norm(sizes)).chunk(len(crossed), 1)).sum(0)
        return y + self.shortcut(x)
