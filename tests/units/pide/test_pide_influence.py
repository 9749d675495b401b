"""On real images: an output of the nonlocal block depends on pixels far away, that of a convolution does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from convswap.data import load_data
from convswap.units import PIDEBlock
from convswap.units.pide.kernels import KERNELS


def influence(module: nn.Module, images: Tensor, row: int, column: int) -> Tensor:
    """(N, H, W): how much each pixel moves the output at (row, column), the largest over the input's channels."""
    x = images.double().requires_grad_()
    output = module(x)[:, :, row, column]
    (gradient,) = torch.autograd.grad((output * torch.linspace(0.5, 1.5, output.shape[1])).sum(), x)
    return gradient.abs().amax(1)


def beyond(height: int, width: int, row: int, column: int, reach: int) -> Tensor:
    """The mask of pixels more than `reach` away from (row, column) in either direction."""
    rows, columns = torch.arange(height)[:, None] - row, torch.arange(width) - column
    return torch.maximum(rows.abs(), columns.abs()) > reach


def check(images: Tensor, kernel: str) -> None:
    """A pointwise lift to 16 channels, then the block, or two 3x3 convolutions, which reach 2 pixels."""
    torch.manual_seed(0)
    place = {"dtype": torch.float64}
    (_, channels, height, width) = images.shape
    lift = nn.Conv2d(channels, 16, 1, **place)
    local = nn.Sequential(
        lift, nn.Conv2d(16, 16, 3, padding=1, **place), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1, **place)
    )
    far = beyond(height, width, 1, 2, 2)
    near = influence(local, images, 1, 2)
    assert (near[:, ~far].amax(1) > 0).all()
    assert not near[:, far].any()
    for subsample, share in ((1, 0.99), (2, 0.2)):  # pooled, at least the largest pixel of each window of four counts
        block = PIDEBlock(16, 16, kernel=kernel, subsample=subsample, **place).eval()
        found = influence(nn.Sequential(lift, block), images, 1, 2)
        assert ((found > 0)[:, far].double().mean(1) >= share).all()
        corner = found[:, -2:, -2:].amax((1, 2))
        assert (corner > 1e-9 * found.amax((1, 2))).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_digits(kernel: str) -> None:
    data = load_data("digits")
    images = torch.as_tensor(data.test.images[:4]).double() / 255
    # Pixels of paper are equal and, pooled, tie: a gradient goes to one of them. A little grain tells them apart.
    check(images + 0.01 * torch.rand(images.shape, generator=torch.Generator().manual_seed(1)), kernel)


@pytest.mark.parametrize("kernel", KERNELS)
def test_cifar10(kernel: str, data_root: Path) -> None:
    data = load_data("cifar10", root=data_root, download=False)
    check(data.test.images[:4].double() / 255, kernel)
