"""Where a circle kernel reads: ring radii, angles, and the bilinear sampling matrix T (arXiv:2107.02451).

A KxK kernel is an array of K^2 weights in row-major order. Weight i is applied at a position p_i inside the same
window. Values between lattice pixels are read by bilinear interpolation, a fixed linear map of the window's
pixels: `x(p_i) = sum_j T[i, j] x_j`. Hence `sum_i w_i x(p_i) = sum_j (w T)_j x_j`: the circle kernel is the
ordinary convolution with weight `w T`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UsageError, check_number

ANGLES = ("even", "arctan")
RINGS = ("max", "floor")
LARGEST_FACTOR = math.sqrt(2.0)  # at K = 3 the corners are then back on the lattice
_INVERTIBLE = 1e5  # a condition number below this keeps a float64 round trip under 1e-10
_EXACT: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}  # whatever the default device is


def refused_kernel(conv: nn.Conv2d) -> str | None:
    """Why a circle kernel cannot have this convolution's kernel size, or None."""
    return refused_size(tuple(conv.kernel_size))


def refused_size(kernel_size: tuple[int, ...]) -> str | None:
    """Why a circle kernel cannot have this size, or None: it needs a square, odd kernel of at least 3x3."""
    height, width = kernel_size
    if height != width:
        return f"a circle needs a square kernel, not {height}x{width}"
    if height < 3:
        return f"a {height}x{width} kernel has no ring"
    if height % 2 == 0:
        return f"a circle needs an odd kernel, not {height}x{width}"
    return None


def check_size(kernel_size: tuple[int, ...]) -> int:
    """The side K of a kernel size that a circle can have; otherwise a `UsageError` gives the reason."""
    reason = refused_size(kernel_size)
    if reason is not None:
        raise UsageError(f"kernel_size={kernel_size} is not allowed: {reason}")
    return kernel_size[0]


def check_factor(option: str, value: object) -> float:
    """A ring radius factor: a number from 0 (all off-axis points at the centre) to sqrt(2)."""
    wanted = "a number from 0 to sqrt(2) or 'learnable'"
    return float(check_number(option, value, lambda factor: 0 <= factor <= LARGEST_FACTOR, wanted))


@lru_cache
def rays(size: int, angles: str, ring: str) -> tuple[Tensor, Tensor]:
    """The positions of the K^2 points as a linear function of the ring factors, in float64.

    `position = base + sum_r factor_r * step_r`, as (down, right) offsets from the window's centre. Points on the
    axes stay on the lattice (base); the others move on their ray (step).

    Args:
        size: the kernel's side K.
        angles: `"even"` spaces the points of a ring evenly (the paper's definition); `"arctan"` keeps each
            point's direction on the lattice (what the official search code uses).
        ring: `"max"` gives ring max(|dx|, |dy|); `"floor"` gives floor(sqrt(dx^2 + dy^2)) as the official code,
            which differs from K = 7 on.

    Returns:
        base (K^2, 2) and step (rings, K^2, 2).
    """
    centre = size // 2
    rings = centre if ring == "max" else math.isqrt(2 * centre * centre)
    with torch.inference_mode(False):
        base = torch.zeros(size * size, 2, **_EXACT)
        step = torch.zeros(rings, size * size, 2, **_EXACT)
    for index in range(size * size):
        down, right = index // size - centre, index % size - centre
        if down == 0 or right == 0:
            base[index, 0], base[index, 1] = down, right
            continue
        far, near = max(abs(down), abs(right)), min(abs(down), abs(right))
        radius = far if ring == "max" else math.isqrt(down * down + right * right)
        turn = math.pi / 4 * near / far if angles == "even" else math.atan(near / far)
        along_far, along_near = radius * math.cos(turn), radius * math.sin(turn)
        y, x = (along_far, along_near) if abs(down) > abs(right) else (along_near, along_far)
        step[radius - 1, index, 0] = math.copysign(y, down)
        step[radius - 1, index, 1] = math.copysign(x, right)
    return base, step


def bilinear(position: Tensor, size: int) -> Tensor:
    """T (K^2, K^2): row i holds the bilinear coefficients of position i over the window's lattice pixels.

    Positions are clamped to the window, so every row sums to 1. Differentiable with respect to the positions
    except where one crosses a lattice line.
    """
    centre = size // 2
    lattice = torch.arange(-centre, centre + 1, dtype=position.dtype, device=position.device)
    hat = (1 - (position.clamp(-centre, centre)[:, :, None] - lattice).abs()).relu()  # (K^2, 2, K)
    return (hat[:, 0, :, None] * hat[:, 1, None, :]).reshape(size * size, size * size)


@lru_cache
def sampling_matrix(size: int, angles: str = "even", ring: str = "max", factor: float = 1.0) -> Tensor:
    """T in float64 with every ring's radius multiplied by one factor. Shared: do not write to it."""
    base, step = rays(size, angles, ring)
    with torch.inference_mode(False):  # a cached inference tensor could not take part in training later
        return bilinear(base + factor * step.sum(0), size)


@lru_cache
def corner_polynomial() -> Tensor:
    """K = 3 in closed form: T(a) = P[0] + a P[1] + a^2 P[2] for corners at (+-a, +-a), a in [0, 1].

    A corner reads `a^2` of its own pixel, `a (1-a)` of each of its two neighbours on the axes and `(1-a)^2` of
    the centre. Returns P as (3, 9, 9).
    """
    with torch.inference_mode(False):
        powers = torch.zeros(3, 9, 9, **_EXACT)
        for axis in (1, 3, 4, 5, 7):
            powers[0, axis, axis] = 1.0
        for corner, neighbours in {0: (1, 3), 2: (1, 5), 6: (3, 7), 8: (5, 7)}.items():
            powers[2, corner, corner] = 1.0
            powers[:, corner, 4] = torch.tensor([1.0, -2.0, 1.0], **_EXACT)
            powers[:, corner, neighbours] = torch.tensor([[0.0], [1.0], [-1.0]], **_EXACT)
        return powers


def matrix_at(factors: Tensor, size: int, angles: str, ring: str) -> Tensor:
    """T for one factor per ring, (rings,), in the factors' dtype and device; differentiable."""
    base, step = (part.to(factors) for part in rays(size, angles, ring))
    return bilinear(base + (factors @ step.flatten(1)).reshape(base.shape), size)


def is_invertible(matrix: Tensor) -> bool:
    """Whether `w = W T^-1` is exact to 1e-10 in float64."""
    return bool(torch.linalg.cond(matrix) < _INVERTIBLE)


def solve_right(weight: Tensor, matrix: Tensor) -> Tensor:
    """The w with `w T = weight` in float64, in the least squares sense (smallest norm) where T is singular.

    Args:
        weight: (out, in/groups, K, K), any dtype and device.
        matrix: T in float64 on the CPU.
    """
    rows = weight.detach().to("cpu", torch.float64).reshape(-1, matrix.shape[0])
    if is_invertible(matrix):
        rows = torch.linalg.solve(matrix, rows, left=False)
    else:
        rows = rows @ torch.linalg.pinv(matrix, rtol=1.0 / _INVERTIBLE)
    return rows.reshape(weight.shape)


def transformed(weight: Tensor, matrix: Tensor) -> Tensor:
    """`w T` per kernel, in at least T's precision: (out, in/groups, K, K) -> the same shape."""
    weight = weight.to(matrix.dtype)
    if weight.is_contiguous() or not weight.is_contiguous(memory_format=torch.channels_last):
        return (weight.reshape(-1, matrix.shape[0]) @ matrix).reshape(weight.shape)
    # channels_last: the taps come before the input channels, so T acts from the left; no layout copies
    out, channels, height, width = weight.shape
    taps = weight.permute(0, 2, 3, 1).reshape(out, height * width, channels)
    return (matrix.t() @ taps).reshape(out, height, width, channels).permute(0, 3, 1, 2)
