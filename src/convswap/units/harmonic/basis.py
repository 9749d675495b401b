"""Circular harmonics on the pixel grid: the ring bases of harmonic networks (arXiv:1612.04642).

A filter of rotation order m is `R(r) e^{i m theta}` with a learned radial profile R. On K rings, each sampled at N
angles `theta_n = 2 pi n / N` and spread over the k x k pixels q by Gaussians of sigma 0.5 (w normalised over the
pixels), the ring bases are `B_m[r](q) = sum_n e^{-i m theta_n} w_{r,n}(q)` and the filter is `sum_r R[r] B_m[r]`.
Turning the image by a quarter multiplies the response to B_m by `e^{i m pi/2}`, on the grid too.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...errors import check_whole

_EXACT: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}  # whatever the default device is
_SIGMA = 0.5
_FEWEST_ANGLES = 101


def default_rings(kernel_size: int) -> int:
    """The official code's default number of rings: `max(k // 2, 2)`."""
    return max(kernel_size // 2, 2)


def angles(kernel_size: int) -> int:
    """N, samples on a ring: `max(ceil(pi k), 101)`. Beyond a few dozen the bases change only by rounding."""
    return max(math.ceil(math.pi * kernel_size), _FEWEST_ANGLES)


def ring_radii(rings: int, order: int) -> Tensor:
    """(rings,): from 0 for order 0, else from 1 (at the centre a harmonic vanishes), evenly to `rings - 0.5`."""
    return torch.linspace(0.0 if order == 0 else 1.0, rings - 0.5, rings, **_EXACT)


@lru_cache
def ring_basis(kernel_size: int, rings: int, order: int) -> Tensor:
    """B_m[r], complex128 (rings, k, k), on the CPU. All callers share one tensor: do not write to it.

    Raises:
        ValueError: the kernel is smaller than 2, there is no ring, or the order is negative.
    """
    for name, value, least in (("kernel_size", kernel_size, 2), ("rings", rings, 1), ("order", order, 0)):
        check_whole(name, value, least)
    with torch.inference_mode(False):  # a cached inference tensor could not take part in training later
        count = angles(kernel_size)
        theta_A = 2 * math.pi * torch.arange(count, **_EXACT) / count
        radii_R1 = ring_radii(rings, order)[:, None]
        centre = torch.arange(kernel_size, **_EXACT) + 0.5 - kernel_size / 2
        down_RA1 = (-radii_R1 * theta_A.sin())[..., None] - centre
        right_RA1 = (radii_R1 * theta_A.cos())[..., None] - centre
        squared_RAKK = down_RA1.square()[..., :, None] + right_RA1.square()[..., None, :]
        spread_RAKK = torch.exp(-squared_RAKK / (2 * _SIGMA**2))
        spread_RAKK = spread_RAKK / spread_RAKK.sum((2, 3), keepdim=True)
        turn_A = torch.polar(torch.ones_like(theta_A), -order * theta_A)
        return torch.einsum("a,raij->rij", turn_A, spread_RAKK.to(turn_A.dtype))


def quarter_turn_exact(basis_RKK: Tensor, order: int) -> Tensor:
    """The nearest basis with `rot90(B) = i^m B` exactly: the mean over the four turns.

    With 101 samples, not a multiple of four, the bases miss that by some 1e-9 of the largest value, and a network
    would, too.
    """
    turns = (1, -1j, -1, 1j)  # of i^-m, by powers
    parts = [turns[order * k % 4] * torch.rot90(basis_RKK, k, (1, 2)) for k in range(4)]
    return (parts[0] + parts[2] + (parts[1] + parts[3])) / 4


@lru_cache
def expansion(kernel_size: int, rings: int, highest: int, unit_norm: bool) -> Tensor:
    """The linear map from profiles with phases to filters, float64 (orders 0..highest, 2 rings, 2 k k).

    A row vector `[R cos(beta), R sin(beta)]` is mapped to `[Re F, Im F]` of `F = e^{-i beta} sum_r R[r] B_m[r]`. The
    bases are made exact under quarter turns first.

    Args:
        kernel_size: k.
        rings: K.
        highest: the largest order.
        unit_norm: scale every ring basis to a sum of squares of 1.
    """
    with torch.inference_mode(False):
        maps = []
        for order in range(highest + 1):
            basis = quarter_turn_exact(ring_basis(kernel_size, rings, order), order).flatten(1)
            if unit_norm:
                basis = basis / torch.linalg.vector_norm(basis, dim=1, keepdim=True)
            cosine, sine = (torch.cat([part.real, part.imag], 1) for part in (basis, -1j * basis))
            maps.append(torch.cat([cosine, sine]))
        return torch.stack(maps)


@lru_cache
def arrangement(orders_in: int, orders_out: int, real_input: bool, full_zero_order: bool) -> Tensor:
    """The filter part at each place of the plain convolution, float64 (pairs, 2 filter orders), of 0, 1, -1.

    Columns are `Re F_0, Im F_0, Re F_1, ..`; rows run over (output order, re | im, input order, re | im). Output o
    takes `F_{o-i}` of input i, `F_{-m} = conj F_m`: the complex product with `F = F_{|o-i|}` and s = sign(o - i) is
    `[[Re F, -s Im F], [s Im F, Re F]]`.

    Args:
        orders_in: input orders; 1 for a real input.
        orders_out: output orders.
        real_input: the input has no imaginary part: rows run over (output order, re | im) only.
        full_zero_order: s = 1 for o = i, the complex product; else s = sign(0) = 0.
    """
    with torch.inference_mode(False):
        parts_in = 1 if real_input else 2
        table = torch.zeros(orders_out, 2, orders_in, parts_in, max(orders_in, orders_out), 2, **_EXACT)
        for o in range(orders_out):
            for i in range(orders_in):
                order = abs(o - i)
                sign = (o > i) - (o < i) or int(full_zero_order or real_input)
                block = table[o, :, i, :, order]
                block[0, 0, 0], block[1, 0, 1] = 1, sign
                if not real_input:
                    block[0, 1, 1], block[1, 1, 0] = -sign, 1
        return table.flatten(4).flatten(0, 3)
