"""Two claims on real images, each beside a plain convolution: exact frequency filters, far-reaching blocks.

- `niff`: the largest difference between a frequency filter and the circular convolution with its effective kernel, in
  space, as a part of the largest output, in float64; the same for a plain 3x3 convolution and its kernel's spectrum.
- `pide`: the effect of a pixel on an output in the middle of a map, by the pixel's distance (the larger of rows and
  columns). It is the mean over channels and pixels of |d output / d input|, as a part of its value at distance 0. The
  networks are freshly drawn: a pointwise lift to 16 channels, then the block, or two 3x3 convolutions.

    python -m benchmarks.studies.properties [--images 8] [--data-root DATA]

The other properties have scripts of their own: `shift_stability.py`, `rotated_digits.py`, `niff_kernels.py`.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import write_result
from convswap.data import ArrayImages, load_data
from convswap.units import NIFFConv2d, PIDEBlock
from convswap.units.pide.kernels import KERNELS

RINGS = ((0, 0), (1, 2), (3, 5), (6, 10), (11, 16))  # distances, both ends within
EXACT = {"dtype": torch.float64}


def circular(x: Tensor, kernels: Tensor) -> Tensor:
    """The circular convolution in space with kernels (out, in, H, W) of the map's size."""
    height, width = x.shape[-2:]
    return F.conv2d(F.pad(x, (width - 1, 0, height - 1, 0), mode="circular"), kernels.flip((2, 3)))


@torch.no_grad()
def niff_rows(images: Tensor) -> list[dict[str, Any]]:
    """Largest relative differences, for square and rectangular windows of the images."""
    rows = []
    for size in ((32, 32), (24, 31)):
        x = images[..., : size[0], : size[1]]
        torch.manual_seed(0)
        plain = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular", bias=False, **EXACT)
        whole = plain.weight.new_zeros(8, 3, *size)
        whole[:, :, :3, :3] = plain.weight.flip((2, 3))
        whole = whole.roll((-1, -1), (2, 3))
        spectral = torch.fft.ifft2(torch.einsum("nihw,oihw->nohw", torch.fft.fft2(x), torch.fft.fft2(whole))).real
        pairs = {"plain 3x3": (plain(x), spectral)}
        for form in ("split", "full"):
            unit = NIFFConv2d.fresh_like(plain, form=form).eval()
            pairs[f"niff {form}"] = unit(x), circular(x, unit.effective_kernel(size))
        for name, (found, expected) in pairs.items():
            apart = float((found - expected).abs().max() / expected.abs().max())
            rows.append({"what": name, "height": size[0], "width": size[1], "difference": apart})
            print(f"{name:12} {size[0]} x {size[1]}: {apart:.1e} of the largest output")
    return rows


def influence(module: nn.Module, images: Tensor) -> dict[str, float]:
    """Mean |d output / d input| by ring of distance, for the output in the middle of the map."""
    x = images.clone().requires_grad_()
    row, column = (side // 2 for side in x.shape[-2:])
    outputs = module(x)[:, :, row, column]
    slopes = torch.zeros(x.shape[-2:], **EXACT)
    for channel in range(outputs.shape[1]):
        (gradient,) = torch.autograd.grad(outputs[:, channel].sum(), x, retain_graph=True)
        slopes += gradient.abs().mean((0, 1))
    rows, columns = torch.arange(x.shape[-2])[:, None] - row, torch.arange(x.shape[-1]) - column
    distance = torch.maximum(rows.abs(), columns.abs())
    means = {f"{a} to {b}": float(slopes[(distance >= a) & (distance <= b)].mean()) for a, b in RINGS}
    return {ring: mean / means["0 to 0"] for ring, mean in means.items()}


def pide_rows(images: Tensor) -> list[dict[str, Any]]:
    """The influence by distance of every kernel's block, and of two 3x3 convolutions."""
    torch.manual_seed(0)
    lift = nn.Conv2d(3, 16, 1, **EXACT)
    local = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, **EXACT), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1, **EXACT))
    blocks = {kernel: PIDEBlock(16, 16, kernel=kernel, subsample=1, **EXACT).eval() for kernel in KERNELS}
    rows = []
    for name, block in {"two 3x3 convolutions": local, **{f"pide {kernel}": b for kernel, b in blocks.items()}}.items():
        found = influence(nn.Sequential(lift, block), images)
        rows.append({"what": name, "influence": found})
        print(f"{name:24}", "  ".join(f"{ring} px: {value:.1e}" for ring, value in found.items()))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--data-root", default=None)
    options = parser.parse_args()
    data = load_data("cifar10", root=options.data_root, download=False)
    assert isinstance(data.test, ArrayImages)
    images = data.test.images[: options.images].double() / 255
    found = {"niff": niff_rows(images), "pide": pide_rows(images)}
    write_result("studies/properties", {"data": "cifar10", "images": len(images), **found})


if __name__ == "__main__":
    main()
