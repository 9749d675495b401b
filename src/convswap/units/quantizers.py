"""Quantisers with straight-through gradients: sign, k-bit linear and logarithmic levels (arXiv:1609.07061)."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest_power_of_two(x: Tensor) -> Tensor:
    """AP2(x) = sign(x) 2^round(log2 |x|), element by element: the nearest power of two in the exponent; AP2(0) = 0.

    Rounding log2 |x| instead of |x| itself makes 2^(n + 1/2) the border between 2^n and 2^(n+1). Ties do not occur: the
    border is irrational.

    >>> nearest_power_of_two(torch.tensor([0.0, 3.0, -2.8, -0.1])).tolist()
    [0.0, 4.0, -2.0, -0.125]
    """
    exact = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return (torch.exp2(torch.log2(exact.abs()).round()) * exact.sign()).to(x.dtype)
