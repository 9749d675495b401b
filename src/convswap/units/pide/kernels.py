"""The integral operators of the nonlocal block: kernels between learned embeddings, and their action on a field.

Shapes: theta (N, E, n) embeds all n pixels, phi (N, E, m) the m pooled ones; a field u is (N, C, n), pooled (N, C, m).
The kernel w_ij couples pixel i with pooled pixel j; "distance" is r_ij = |theta_i - phi_j|, between embeddings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

KERNELS = ("laplacian", "laplacian_row", "gaussian", "fractional", "inverse_fractional", "log")
_EULER = 0.5772156649  # as many digits as the official code
# r^2 is formed as |a|^2 - 2 ab + |b|^2, in float32 accurate to some 1e-5 for embeddings of length 10. Closer is noise.
CLOSEST_SQUARED = 1e-4
_SMALLEST_MEAN = 1e-6  # rows of signed entries may cancel, so their mean is kept this far from 0


def fractional_constant(s: float) -> float:
    """c of `(-Delta)^s u = c PV integral (u(x) - u(y)) / |x - y|^(2 + 2s)` in the plane; 1 / (2 pi) for s = 1/2."""
    return 4**s * math.gamma(1 + s) / (math.pi * abs(math.gamma(-s)))


def riesz_constant(s: float) -> float:
    """c' of `(-Delta)^-s u = c' integral u(y) / |x - y|^(2 - 2s)` in the plane; 1 / (2 pi) for s = 1/2."""
    return math.gamma(1 - s) / (4**s * math.pi * math.gamma(s))


@dataclass  # not frozen: torch 2.11 cannot compile the construction of a frozen one
class Operator:
    """A linear operator on fields, `sum_j w_ij P(u)_j - outflow_i u_i`. Its kernel is formed once for several fields.

    w is normalised. For `fractional`, the negative of a difference operator, it is negative.

    Attributes:
        left: (N, k, n). Dense: w transposed, k = m. Factorised: theta, normalised, k = E.
        right: phi (N, E, m) if factorised: `w = left^T right`, which is never formed; None if dense.
        outflow: `sum_j w_ij`, (N, 1, n), for the difference operators; 1 where w sums to 1; None for the others.
    """

    left: Tensor
    right: Tensor | None
    outflow: Tensor | Literal[1] | None

    def __call__(self, u_NCn: Tensor, pooled_NCm: Tensor, channels_last: bool = False) -> Tensor:
        """(N, C, n) and (N, C, m) -> (N, C, n), in memory as (N, n, C) if `channels_last`."""
        a = pooled_NCm if self.right is None else pooled_NCm @ self.right.mT
        summed = (self.left.mT @ a.mT).mT if channels_last else a @ self.left
        if self.outflow is None:
            return summed
        if isinstance(self.outflow, int):
            return summed - u_NCn
        return torch.addcmul(summed, u_NCn, self.outflow, value=-1)


def make_operator(
    kernel: str, theta_NEn: Tensor, phi_NEm: Tensor, *, s: float, scale: float, rows: bool, dense: bool = False
) -> Operator:
    """The operator of a kernel. With lambda = `scale`, w_ij is

    - `laplacian` and `laplacian_row`: `lambda theta_i . phi_j`, factorised: cost and memory linear in n and m;
    - `gaussian`: `exp(lambda theta_i . phi_j)`;
    - `fractional`: `lambda c / r_ij^(2 + 2s)`; `inverse_fractional`: `lambda c' / r_ij^(2 - 2s)`;
    - `log`: `lambda (-2 ln r_ij - gamma) / (4 pi)`,

    divided by m, or with `rows` by `sum_j w_ij`. r_ij is at least 0.01, so that neither values nor gradients are
    infinite if embeddings coincide. The mean of a row is kept at least 1e-6 from 0.

    Args:
        kernel: one of `KERNELS`.
        theta_NEn, phi_NEm: the embeddings.
        s: the order, between 0 and 1, of the fractional kernels.
        scale: lambda. It cancels under `rows`, except for the Gaussian.
        rows: divide by the sum of a row rather than by m.
        dense: form the matrix also for the dot product, to compare with.
    """
    if kernel == "gaussian":
        # Divided by their sum, the exponentials are a softmax, which cannot overflow.
        return Operator(torch.softmax(scale * (phi_NEm.mT @ theta_NEn), 1), None, 1)
    if kernel in ("laplacian", "laplacian_row") and not dense:
        return _factorised(theta_NEn, phi_NEm, scale, rows)
    w_Nmn = (-scale if kernel == "fractional" else scale) * _pairs(kernel, theta_NEn, phi_NEm, s)
    mean_N1n = w_Nmn.mean(1, keepdim=True)
    divisor: Tensor | float = 1.0
    if rows:
        divisor = _away_from_zero(mean_N1n.abs() if kernel == "fractional" else mean_N1n)
    outflow = None if kernel in ("inverse_fractional", "log") else mean_N1n / divisor
    return Operator(w_Nmn / (divisor * w_Nmn.shape[1]), None, outflow)


def _factorised(theta_NEn: Tensor, phi_NEm: Tensor, scale: float, rows: bool) -> Operator:
    # sum_j (theta_i . phi_j) u_j = theta_i . sum_j phi_j u_j: no pair of pixels is ever looked at.
    mean_N1n = scale * (phi_NEm.mean(2, keepdim=True).mT @ theta_NEn)
    pixels = phi_NEm.shape[2]
    if torch.jit.is_tracing():  # where sizes are tensors, whose quotient would be rounded to float32
        pixels = int(pixels)
    left = scale / pixels * theta_NEn
    if not rows:
        return Operator(left, phi_NEm, mean_N1n)
    divisor = _away_from_zero(mean_N1n)
    return Operator(left / divisor, phi_NEm, mean_N1n / divisor)


def _pairs(kernel: str, theta_NEn: Tensor, phi_NEm: Tensor, s: float) -> Tensor:
    """w before lambda, transposed: (N, m, n)."""
    products = phi_NEm.mT @ theta_NEn
    if kernel in ("laplacian", "laplacian_row"):
        return products
    squares = phi_NEm.square().sum(1)[:, :, None] + theta_NEn.square().sum(1)[:, None]
    squared = (squares - 2 * products).clamp(min=CLOSEST_SQUARED)
    if kernel == "fractional":
        return fractional_constant(s) * squared ** -(1 + s)
    if kernel == "inverse_fractional":
        return riesz_constant(s) * squared ** (s - 1)
    return -(squared.log() + _EULER) / (4 * math.pi)


def _away_from_zero(mean: Tensor) -> Tensor:
    least = torch.full_like(mean, _SMALLEST_MEAN)  # with the sign of the mean; ONNX has no copysign
    return torch.where(mean.abs() < _SMALLEST_MEAN, torch.where(mean < 0, -least, least), mean)
