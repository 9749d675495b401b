"""Kernel classes: is a kernel like a Gaussian, like the identity, like an edge detector, or like none of these?

The measure is our own; the VGNet paper (arXiv:2207.10318) sorts kernels by eye. A kernel w, taken without its sign and
scale, is compared with families of templates by the cosine between them:

- `gaussian`: Gaussians of sigma 0.4 .. 3, centred;
- `identity`: the centre tap alone;
- `edge`: Sobel filters at any rotation (the cosine to the plane they span, kernels above 3x3 also first derivatives of
  the Gaussians), the 4- and 8-neighbour Laplacians, and identity minus Gaussian.

The class is the best family, or `other` where no cosine reaches the threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import UsageError
from .kernels import LayerKernels

CLASSES = ("gaussian", "identity", "edge", "other")
"""The names of the classes; labels are indices into them."""
_FAMILIES = CLASSES[:3]
_CHUNK = 1 << 16


@dataclass(frozen=True)
class KernelClasses:
    """Classes of kernels.

    Attributes:
        labels: (kernels,), index into `CLASSES`.
        similarity: (kernels, 3), the cosine to the nearest template of each family, 0 .. 1.
        threshold: the cosine that a kernel must reach.
    """

    labels: Tensor
    similarity: Tensor
    threshold: float

    @property
    def counts(self) -> dict[str, int]:
        """How many kernels there are of each class."""
        numbers = torch.bincount(self.labels, minlength=len(CLASSES)).tolist()
        return dict(zip(CLASSES, numbers, strict=True))

    @property
    def shares(self) -> dict[str, float]:
        """The part of the kernels in each class."""
        return {name: number / max(len(self.labels), 1) for name, number in self.counts.items()}


def classify_kernels(kernels: Tensor, *, threshold: float = 0.8) -> KernelClasses:
    """Sort kernels (.., H, W) into classes. A kernel of zeros is `other`.

    >>> from torch import tensor
    >>> box = tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]])
    >>> sobel = tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
    >>> [CLASSES[label] for label in classify_kernels(torch.stack([-box, sobel])).labels]
    ['gaussian', 'edge']

    Raises:
        ValueError: kernels smaller than 2x2; a threshold outside 0 .. 1.
    """
    if kernels.dim() < 2 or min(kernels.shape[-2:]) < 2:
        raise UsageError(f"kernels of shape {tuple(kernels.shape)} have no shape to classify; give (.., H, W) from 2x2")
    if not 0 < threshold <= 1:
        raise UsageError(f"threshold={threshold!r} is not allowed; give a number from 0, excluded, to 1")
    height, width = kernels.shape[-2:]
    flat = kernels.detach().double().cpu().reshape(-1, height * width)
    similarity = torch.cat([_similarity(part, height, width) for part in flat.split(_CHUNK)] or [flat.new_zeros(0, 3)])
    best, labels = similarity.max(1)
    labels[best < threshold] = CLASSES.index("other")
    return KernelClasses(labels, similarity, threshold)


def classify_layer(layer: LayerKernels, *, threshold: float = 0.8) -> KernelClasses:
    """`classify_kernels` of a layer; kernels of one row or column (1x3, 3x1) have no class but `other`."""
    if min(layer.weight.shape[-2:]) >= 2:
        return classify_kernels(layer.weight, threshold=threshold)
    count = len(layer.kernels)
    labels = torch.full((count,), CLASSES.index("other"))
    return KernelClasses(labels, torch.zeros(count, len(_FAMILIES), dtype=torch.float64), threshold)


def _similarity(flat: Tensor, height: int, width: int) -> Tensor:
    unit = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-300)
    found = []
    for family in _templates(height, width):
        # Each template is an orthonormal basis of 1 or 2 vectors: the cosine is the length of the projection.
        found.append(torch.stack([(unit @ basis).norm(dim=1) for basis in family], 1).amax(1))
    return torch.stack(found, 1).clamp_max(1.0)


@lru_cache(maxsize=64)
def _templates(height: int, width: int) -> tuple[tuple[Tensor, ...], ...]:
    """Orthonormal bases (pixels, 1 or 2) of each family."""
    y, x = torch.meshgrid(_coordinates(height), _coordinates(width), indexing="ij")
    gaussians = [_gaussian(x, y, sigma) for sigma in _sigmas()]
    delta = torch.zeros(height, width, dtype=torch.float64)
    delta[height // 2, width // 2] = 1.0
    edges = [_basis(delta - g) for g in gaussians]
    if min(height, width) >= 3:
        sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64)
        four = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]], dtype=torch.float64)
        eight = torch.tensor([[-1.0, -2, -1], [-2, 12, -2], [-1, -2, -1]], dtype=torch.float64)
        edges.append(_basis(_placed(sobel, height, width), _placed(sobel.T, height, width)))
        edges += [_basis(_placed(four, height, width)), _basis(_placed(eight, height, width))]
    if (height, width) != (3, 3):
        edges += [_basis(x * g, y * g) for g in gaussians]
    return tuple(_basis(g) for g in gaussians), (_basis(delta),), tuple(edges)


def _coordinates(size: int) -> Tensor:
    return torch.arange(size, dtype=torch.float64) - (size - 1) / 2


def _sigmas() -> list[float]:
    """0.4 .. 3 in steps of about 7 %."""
    return torch.logspace(torch.tensor(0.4).log10().item(), torch.tensor(3.0).log10().item(), 31).tolist()


def _gaussian(x: Tensor, y: Tensor, sigma: float) -> Tensor:
    g = torch.exp(-(x**2 + y**2) / (2 * sigma**2))
    return g / g.sum()


def _placed(small: Tensor, height: int, width: int) -> Tensor:
    whole = torch.zeros(height, width, dtype=torch.float64)
    top, left = height // 2 - 1, width // 2 - 1
    whole[top : top + 3, left : left + 3] = small
    return whole


def _basis(*templates: Tensor) -> Tensor:
    return torch.linalg.qr(torch.stack([t.flatten() for t in templates], 1))[0]


@dataclass(frozen=True)
class StageClasses:
    """How many kernels of each class a stage (or a role within it) holds."""

    stage: int | None
    role: str
    counts: dict[str, int]

    @property
    def shares(self) -> dict[str, float]:
        """The part of the kernels in each class."""
        total = max(sum(self.counts.values()), 1)
        return {name: number / total for name, number in self.counts.items()}


def classes_by_stage(
    layers: Sequence[LayerKernels], classes: Iterable[KernelClasses] | None = None, *, threshold: float = 0.8
) -> list[StageClasses]:
    """Count kernel classes for each stage and role (strided depthwise, depthwise, strided, dense), in order."""
    given = [classify_layer(layer, threshold=threshold) for layer in layers] if classes is None else classes
    counts: dict[tuple[int | None, str], dict[str, int]] = {}
    for layer, found in zip(layers, given, strict=True):
        sum_ = counts.setdefault((layer.stage, layer.role), dict.fromkeys(CLASSES, 0))
        for name, number in found.counts.items():
            sum_[name] += number
    return [StageClasses(stage, role, numbers) for (stage, role), numbers in counts.items()]
