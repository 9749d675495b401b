"""How similar are two representations? Linear CKA, unbiased over minibatches or biased over all samples.

Nguyen et al. (arXiv:2010.15327): with the unbiased estimator of HSIC, summed over minibatches before it is divided,
CKA does not depend on the size of the minibatches. The biased form grows with few samples and many features. The two
give different numbers, so say which one is meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .layers import feature_maps

_LEAST = 4
"""The unbiased estimator divides by n (n - 3)."""


def unbiased_hsic(first: Tensor, second: Tensor) -> Tensor:
    """The unbiased estimate of HSIC from two Gram matrices (n, n) of the same samples.

    [tr(KL) + (1'K1)(1'L1) / ((n-1)(n-2)) - 2 / (n-2) 1'KL1] / (n (n-3)), the diagonals of K and L set to zero.

    Raises:
        ValueError: fewer than 4 samples, or matrices of different samples.
    """
    n = len(first)
    if first.shape != second.shape or first.shape != (n, n) or n < _LEAST:
        raise UsageError(f"Gram matrices of {tuple(first.shape)} and {tuple(second.shape)}: give two (n, n), n >= 4")
    off = 1 - torch.eye(n, dtype=first.dtype, device=first.device)
    k, ell = first * off, second * off
    trace = (k * ell.T).sum()
    product = k.sum(0) @ ell.sum(1)
    return (trace + k.sum() * ell.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * product) / (n * (n - 3))


def gram(features: Tensor) -> Tensor:
    """(n, ..) -> X X', (n, n) in float64."""
    flat = features.detach().flatten(1).double()
    return flat @ flat.T


def minibatch_cka(first: Iterable[Tensor], second: Iterable[Tensor]) -> float:
    """Unbiased linear CKA of two representations, given as minibatches (n, ..) of the same samples.

    mean HSIC(K, L) / sqrt(mean HSIC(K, K) mean HSIC(L, L)); may be slightly negative for unrelated features.

    Raises:
        ValueError: minibatches of different sizes, or of fewer than 4 samples.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    for x, y in zip(first, second, strict=True):
        k, ell = gram(x), gram(y)
        sums += torch.stack([unbiased_hsic(k, ell), unbiased_hsic(k, k), unbiased_hsic(ell, ell)]).cpu()
    return _ratio(sums[0], sums[1], sums[2])


def _ratio(both: Tensor, first: Tensor, second: Tensor) -> float:
    return float(both / (first * second).sqrt())


def biased_cka(first: Tensor, second: Tensor) -> float:
    """Linear CKA over all samples, |X'Y|^2 / (|X'X| |Y'Y|) of centred features (n, ..) and (n, ..).

    Raises:
        ValueError: different numbers of samples.
    """
    if len(first) != len(second):
        raise UsageError(f"features of {len(first)} and {len(second)} samples; give those of the same samples")
    k, ell = (gram(f.double().flatten(1) - f.double().flatten(1).mean(0)) for f in (first, second))
    return float((k * ell).sum() / (k.norm() * ell.norm()))


def mean_cosine(first: Tensor, second: Tensor) -> float:
    """Mean over samples of the cosine between a sample's two representations, (n, ..) of equal size.

    The representations are not centred. The cosine is only meaningful where numbers correspond: the same layer of two
    models, or two forms of one. Samples on which one of the two is zero do not count; NaN if there are no others.

    Raises:
        ValueError: representations of different shape.
    """
    if first.shape != second.shape or first.dim() < 2:
        raise UsageError(f"features of {tuple(first.shape)} and {tuple(second.shape)}; give two of one shape (n, ..)")
    x, y = (features.detach().double().flatten(1) for features in (first, second))
    lengths = x.norm(dim=1) * y.norm(dim=1)
    return float(((x * y).sum(1) / lengths)[lengths > 0].mean())


@dataclass(frozen=True)
class Similarity:
    """CKA of every pair of layers.

    Attributes:
        rows, columns: the layers.
        values: (rows, columns), unbiased minibatch CKA; NaN where a layer does not distinguish any samples.
        samples, batch_size: how many images it is computed from, and the size of the minibatches.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Tensor
    samples: int
    batch_size: int

    @property
    def matched(self) -> float:
        """Mean over the layers at the same relative depth of both (NaN left out): the diagonal of a square matrix."""
        most = max(self.values.shape)
        rows, columns = (torch.linspace(0, n - 1, most).round().long() for n in self.values.shape)
        return float(self.values[rows, columns].nanmean())


def layer_similarity(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[str],
    *,
    other: nn.Module | None = None,
    other_layers: Sequence[str] | None = None,
    batch_size: int = 16,
) -> Similarity:
    """Unbiased minibatch CKA between the layers of a model, or between those of two models.

    Args:
        model: run in eval mode.
        images: (N, C, H, W). Images that do not fill a minibatch are left out.
        layers: paths of the rows' layers.
        other: a second model, for the columns.
        other_layers: its layers; default: those of the rows.
        batch_size: samples of a minibatch, at least 4.

    Raises:
        ValueError: fewer images than one minibatch, a minibatch below 4, an unknown layer or one that is not run.
    """
    if batch_size < _LEAST or len(images) < batch_size:
        raise UsageError(f"{len(images)} images in minibatches of {batch_size}: give at least one of 4 or more")
    columns = tuple(layers if other_layers is None else other_layers)
    own = torch.zeros(len(layers), dtype=torch.float64)
    others = torch.zeros(len(columns), dtype=torch.float64)
    both = torch.zeros(len(layers), len(columns), dtype=torch.float64)
    whole = len(images) // batch_size * batch_size
    for batch in images[:whole].split(batch_size):
        first = _grams(model, batch, layers)
        second = first if other is None and columns == tuple(layers) else _grams(other or model, batch, columns)
        own += torch.stack([unbiased_hsic(k, k) for k in first])
        others += torch.stack([unbiased_hsic(k, k) for k in second])
        both += torch.stack([torch.stack([unbiased_hsic(k, ell) for ell in second]) for k in first])
    return Similarity(tuple(layers), columns, both / (own[:, None] * others).sqrt(), whole, batch_size)


def _grams(model: nn.Module, batch: Tensor, layers: Sequence[str]) -> list[Tensor]:
    maps = feature_maps(model, batch, layers)
    missing = [name for name in layers if name not in maps]
    if missing:
        raise UsageError(f"layer={missing[0]!r} is not run by {type(model).__name__}, or gives no tensor")
    return [gram(maps[name]).cpu() for name in layers]
