"""On real images: a frequency filter is a circular convolution with a kernel as large as the map, a plain one 3x3."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convswap.data import load_data
from convswap.measure.kernel_mass import kernel_mass
from convswap.units import NIFFConv2d

SIZES = ((32, 32), (24, 31))  # a rectangle of odd width among them


@pytest.fixture(scope="module")
def images(data_root: Path) -> Tensor:
    data = load_data("cifar10", root=data_root, download=False)
    return data.test.images[:8].double() / 255


def in_space(x: Tensor, kernels: Tensor) -> Tensor:
    """The circular convolution with kernels (out, in, H, W) of the map's size; (0, 0) is no displacement."""
    height, width = x.shape[-2:]
    wrapped = F.pad(x, (width - 1, 0, height - 1, 0), mode="circular")
    return F.conv2d(wrapped, kernels.flip((2, 3)))


def in_frequency(x: Tensor, kernels: Tensor) -> Tensor:
    spectra = torch.einsum("nihw,oihw->nohw", torch.fft.fft2(x), torch.fft.fft2(kernels))
    return torch.fft.ifft2(spectra).real


@pytest.mark.parametrize("form", ["split", "full"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.no_grad()
def test_is_the_circular_convolution_and_reaches_farther_than_a_plain_one(
    images: Tensor, form: str, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    x = images[..., : size[0], : size[1]]
    plain = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular", bias=False).double()
    unit = NIFFConv2d.fresh_like(plain, form=form).eval()
    expected = in_space(x, unit.effective_kernel(size))
    for module in (unit, unit.fuse(size)):
        assert (module(x) - expected).abs().max() < 1e-10 * expected.abs().max()

    whole = plain.weight.new_zeros(8, 3, *size)  # the plain kernel on the same footing: flipped, around (0, 0)
    whole[:, :, :3, :3] = plain.weight.flip((2, 3))
    whole = torch.roll(whole, (-1, -1), (2, 3))
    expected = plain(x)
    for found in (in_space(x, whole), in_frequency(x, whole)):
        assert (found - expected).abs().max() < 1e-10 * expected.abs().max()

    centred = unit.effective_kernel(size, centred=True)
    energies = [kernel_mass(centred).mean(side)[1] for side in (3, 5, 7)]
    assert energies == sorted(energies)
    assert energies[-1] < 1
    shift = (size[0] // 2, size[1] // 2)
    assert kernel_mass(torch.roll(whole, shift, (2, 3))).mean(3)[1] == pytest.approx(1)
