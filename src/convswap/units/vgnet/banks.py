"""Banks of constant kernels for depthwise convolutions: low-pass and edge detectors (VGNet, arXiv:2207.10318).

A bank is a stack of n kernels; channel c of a layer takes kernel `c mod n`, whatever the number of channels (the
official code repeats the bank a whole number of times and so demands that n divides the channels). Their origin is
the authors' code at the time of the paper: the edge bank (4 kernels) and the edge-and-Gaussian bank (8 kernels).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError, check_choice, check_number

BANKS = ("auto", "gaussian", "gaussian_signed", "edge", "edge_gaussian")
_SIGMA = {"gaussian": 1.0, "gaussian_signed": 1.1}
_EXACT: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}  # whatever the default device is

_THIRD = 1 / 3
_SOBEL_DOWN = ((-0.5, -1.0, -0.5), (0.0, 0.0, 0.0), (0.5, 1.0, 0.5))
_SOBEL_RIGHT = ((-0.5, 0.0, 0.5), (-1.0, 0.0, 1.0), (-0.5, 0.0, 0.5))
_LAPLACIAN_8 = ((-1 / 12, -1 / 6, -1 / 12), (-1 / 6, 1.0, -1 / 6), (-1 / 12, -1 / 6, -1 / 12))
_LAPLACIAN_4 = ((0.0, -0.25, 0.0), (-0.25, 1.0, -0.25), (0.0, -0.25, 0.0))
_EMBOSS = ((-1.0, -2 * _THIRD, -_THIRD), (-2 * _THIRD, 0.0, 2 * _THIRD), (_THIRD, 2 * _THIRD, 1.0))
_EMBOSS_MIRRORED = ((-_THIRD, -2 * _THIRD, -1.0), (2 * _THIRD, 0.0, -2 * _THIRD), (1.0, 2 * _THIRD, _THIRD))
# The authors wrote these two Gaussians down to four decimals; the first sums to 1.0001.
_GAUSSIAN_11 = ((0.0811, 0.1226, 0.0811), (0.1226, 0.1853, 0.1226), (0.0811, 0.1226, 0.0811))
_GAUSSIAN_06 = ((0.0277, 0.1110, 0.0277), (0.1110, 0.4452, 0.1110), (0.0277, 0.1110, 0.0277))
_EDGES = (_SOBEL_DOWN, _SOBEL_RIGHT, _LAPLACIAN_8, _LAPLACIAN_4)


def resolve(bank: str, stride: tuple[int, ...]) -> str:
    """The bank itself; for `"auto"` the paper's use: `"gaussian"` where the stride exceeds 1, else `"edge_gaussian"`.

    Raises:
        ValueError: no such bank.
    """
    check_choice("bank", bank, BANKS)
    if bank != "auto":
        return bank
    return "gaussian" if max(stride) > 1 else "edge_gaussian"


def check_sigma(sigma: object, bank: str) -> float | None:
    """The standard deviation, checked: None, or a positive number if the bank (as asked for) has a free one.

    Raises:
        ValueError: it is not a positive number, or the bank has none.
    """
    if sigma is None:
        return None
    width = check_number("sigma", sigma, lambda value: value > 0, "a positive number, or None for the bank's own")
    if bank in ("edge", "edge_gaussian"):
        raise UsageError(f"sigma={sigma!r} is not allowed with bank={bank!r}, whose kernels are fixed; leave it None")
    return float(width)


def refused_size(bank: str, kernel_size: tuple[int, ...]) -> str | None:
    """Why a resolved bank has no kernels of this size, or None."""
    height, width = kernel_size
    if bank in ("edge", "edge_gaussian"):
        return None if (height, width) == (3, 3) else f"the edge kernels are 3x3, not {height}x{width}"
    if height % 2 == 0 or width % 2 == 0:
        return f"a Gaussian needs an odd kernel, not {height}x{width}"
    return "a 1x1 Gaussian is the identity" if height == width == 1 else None


@lru_cache(maxsize=64)
def kernels(bank: str, kernel_size: tuple[int, int], sigma: float | None = None) -> Tensor:
    """The kernels (n, kH, kW) of a resolved bank in float64, in the official order. Shared: do not write to them."""
    with torch.inference_mode(False):  # a cached inference tensor could not take part in training later
        if bank in _SIGMA:
            if bank == "gaussian_signed" and sigma is None and kernel_size == (3, 3):
                blur = torch.tensor(_GAUSSIAN_11, **_EXACT)
            else:
                blur = gaussian(kernel_size, _SIGMA[bank] if sigma is None else sigma)
            return torch.stack([blur, -blur]) if bank == "gaussian_signed" else blur[None]
        if bank == "edge":
            return torch.tensor(_EDGES, **_EXACT)
        return torch.tensor((*_EDGES, _EMBOSS, _EMBOSS_MIRRORED, _GAUSSIAN_11, _GAUSSIAN_06), **_EXACT)


def gaussian(kernel_size: tuple[int, int], sigma: float) -> Tensor:
    """`exp(-(x^2 + y^2) / (2 sigma^2))` on the lattice around the centre, normalised to sum 1, (kH, kW) in float64."""
    axes = []
    for side in kernel_size:
        at = torch.arange(side, **_EXACT) - side // 2
        axes.append(torch.exp(-(at / sigma).square() / 2))  # the square of a tiny sigma would be 0
    kernel = torch.outer(*axes)
    return kernel / kernel.sum()


def tiled(bank: str, kernel_size: tuple[int, int], channels: int, sigma: float | None = None) -> Tensor:
    """A depthwise weight (channels, 1, kH, kW) in float64: channel c takes kernel `c mod n`. A new tensor."""
    stack = kernels(bank, kernel_size, sigma)
    return stack[torch.arange(channels, device="cpu") % len(stack)][:, None]
