"""Feature reuse: maps that a layer repeats from the one before, and channels that are redundant.

The measures proposed for the VGNet paper's remark (arXiv:2207.10318) that maps of adjacent layers look alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import UsageError


def _centred(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (C, N H W), mean 0 and length 1; constant channels become zeros."""
    rows = maps.detach().double().transpose(0, 1).flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    length = rows.norm(dim=1, keepdim=True)
    constant = length <= 1e-9 * maps.detach().double().abs().max().clamp_min(1e-300) * rows.shape[1] ** 0.5
    return torch.where(constant, torch.zeros_like(rows), rows / length.clamp_min(1e-300))


@dataclass(frozen=True)
class Duplicates:
    """How many channels of one layer come back in the next.

    Attributes:
        first, second: the layers.
        best: (channels of the first,), each one's largest |correlation| with any channel of the second.
    """

    first: str
    second: str
    best: Tensor

    @property
    def mean(self) -> float:
        """Mean over the channels."""
        return float(self.best.mean())

    def share(self, level: float = 0.95) -> float:
        """The part of the channels whose best correlation is at least this."""
        return float((self.best >= level).double().mean())


def duplicate_maps(first: Tensor, second: Tensor, names: tuple[str, str] = ("first", "second")) -> Duplicates:
    """For each channel of the first layer the largest |corr(F[i], G[j])| over the channels j of the second.

    Args:
        first, second: feature maps (N, C, H, W) and (N, D, H, W) of the same images. Correlations run over images
            and pixels; a constant channel correlates with none.
        names: what the layers are called.

    Raises:
        ValueError: maps of different size or number.
    """
    if first.dim() != 4 or first.shape[:1] + first.shape[2:] != second.shape[:1] + second.shape[2:]:
        raise UsageError(
            f"maps of {tuple(first.shape)} and {tuple(second.shape)}: give two of the same images and size"
        )
    correlation = (_centred(first) @ _centred(second).T).abs()
    return Duplicates(*names, correlation.amax(1).clamp_max(1).cpu())


def duplicates_along(maps: Mapping[str, Tensor]) -> list[Duplicates]:
    """`duplicate_maps` of each layer and the next one in the order given, where their maps have the same size."""
    fit = {name: m for name, m in maps.items() if m.dim() == 4 and m[0, 0].numel() > 1}
    return [
        duplicate_maps(first, second, (a, b))
        for (a, first), (b, second) in pairwise(fit.items())
        if first.shape[2:] == second.shape[2:]
    ]


@dataclass(frozen=True)
class Redundancy:
    """How similar the channels of one layer are.

    Attributes:
        cosine: (C, C), mean over images of |cos| between the maps of two channels; NaN for channels that are always
            zero.
        dead: how many channels are zero on all images.
    """

    cosine: Tensor
    dead: int

    @cached_property
    def mean(self) -> float:
        """Mean over pairs of different channels, those with dead channels left out; NaN if there is no pair."""
        off = ~torch.eye(len(self.cosine), dtype=torch.bool)
        return float(self.cosine[off].nanmean())


def channel_redundancy(maps: Tensor) -> Redundancy:
    """Mean |cos| of the maps of every pair of channels of feature maps (N, C, H, W), not centred.

    Images on which one of the two is zero do not count for a pair.

    Raises:
        ValueError: not a batch of feature maps.
    """
    if maps.dim() != 4 or not len(maps):
        raise UsageError(f"maps of shape {tuple(maps.shape)} are not allowed; give (N, C, H, W)")
    rows = maps.detach().flatten(2).double()
    length = rows.norm(dim=2, keepdim=True)
    alive = (length[..., 0] > 0).double()
    unit = rows / length.clamp_min(1e-300)
    cosine = (unit @ unit.transpose(1, 2)).abs().sum(0)
    counted = alive.T @ alive
    mean = torch.where(counted > 0, cosine / counted.clamp_min(1), torch.nan)
    return Redundancy(mean.clamp_max(1).cpu(), int((alive.sum(0) == 0).sum()))
