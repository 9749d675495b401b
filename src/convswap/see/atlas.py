"""The kernel atlas: all kernels of a layer on one sheet, each shown without its sign and scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .classes import KernelClasses, classify_layer
from .kernels import LayerKernels
from .lowpass import evenly


@dataclass(frozen=True)
class Atlas:
    """One layer's sheet.

    Attributes:
        layer: the kernels it shows.
        sheet: (rows, columns) of pixels in -1 .. 1, NaN between the kernels and where there is none.
        labels: (shown,), the class of each kernel on the sheet in reading order, index into `CLASSES`.
        shown: how many kernels are on the sheet.
        classes: of all kernels of the layer.
    """

    layer: LayerKernels
    sheet: Tensor
    labels: Tensor
    shown: int
    classes: KernelClasses


def upright(kernels: Tensor) -> Tensor:
    """Kernels (.., H, W) without sign and scale: the sum of weights is not negative, the largest magnitude is 1.

    Where the sum is close to 0 (edge filters), the largest weight is made positive. Kernels of zeros stay.
    """
    w = kernels.detach().double()
    flat = w.flatten(-2)
    largest = flat.abs().amax(-1, keepdim=True)
    sums = flat.sum(-1, keepdim=True)
    strongest = flat.gather(-1, flat.abs().argmax(-1, keepdim=True))
    decisive = torch.where(sums.abs() > 0.05 * flat.abs().sum(-1, keepdim=True), sums, strongest)
    scaled = flat / largest.clamp_min(1e-300) * torch.where(decisive < 0, -1.0, 1.0)
    return scaled.reshape(w.shape)


def kernel_atlas(layer: LayerKernels, *, limit: int = 4096, columns: int | None = None) -> Atlas:
    """A sheet of at most `limit` kernels of a layer (evenly spaced where there are more), sorted by class.

    Args:
        layer: from `layer_kernels`.
        limit: how many fit.
        columns: kernels in a row; default: about twice as many as rows.
    """
    kernels = evenly(layer.kernels, limit)
    classes = classify_layer(layer)
    labels = evenly(classes.labels, limit)
    nearness = evenly(classes.similarity.amax(1), limit)
    order = torch.argsort(labels.double() - nearness / 2)  # by class, the clearest first within a class
    sheet = tile(upright(kernels[order]), columns)
    return Atlas(layer, sheet, labels[order], len(kernels), classes)


def tile(kernels: Tensor, columns: int | None = None) -> Tensor:
    """Lay kernels (K, H, W) out on a sheet with a line of NaN between them."""
    count, height, width = kernels.shape
    columns = min(count, columns or max(1, round((2 * count) ** 0.5)))
    rows = -(-count // columns)
    sheet = kernels.new_full((rows, height + 1, columns, width + 1), float("nan"))
    cells = sheet.permute(0, 2, 1, 3)[:, :, :height, :width]
    filled = kernels.new_full((rows * columns, height, width), float("nan"))
    filled[:count] = kernels
    cells.copy_(filled.reshape(rows, columns, height, width))
    return sheet.reshape(rows * (height + 1), columns * (width + 1))[:-1, :-1]
