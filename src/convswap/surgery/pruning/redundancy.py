"""Gradient redundancy, after arXiv:2206.03596 (reconstructed from its abstract): how many channels a layer needs.

At a trained point the Hessian is near (1/S) sum_s g_s g_s^T, so a change dw of the outgoing weights costs about
(1/2S) |G dw|^2. Channels whose columns of G depend on the others' can go at no cost to second order. With M = G^T G
and its eigenvalues l_1 >= l_2 >= ...:

- the effective rank is r = min{r : l_1 + ... + l_r >= (1 - tau) sum l}, the redundancy 1 - r / C;
- removing n channels costs about the n smallest eigenvalues' sum over 2S;
- the salience of channel c is the squared residual of its column on the kept ones, 1 / [M^-1]_cc.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-12
"""What is added to M's diagonal before it is inverted, relative to its largest eigenvalue."""


@dataclass(frozen=True)
class Redundancy:
    """What M says of one group.

    Attributes:
        rank: the effective rank r, at least 1.
        errors: the predicted error of removing one more element, for 0, 1, ... removed: eigenvalues over 2S, ascending.
    """

    rank: int
    errors: tuple[float, ...]


def redundancy_of(gram: Tensor, samples: int, tau: float) -> Redundancy:
    """Rank and errors of a symmetric positive semidefinite M (C, C).

    >>> redundancy_of(torch.diag(torch.tensor([4.0, 0.0, 2.0, 2.0])), samples=2, tau=1e-3)
    Redundancy(rank=3, errors=(0.0, 0.5, 0.5, 1.0))
    """
    values = torch.linalg.eigvalsh(gram.double()).clamp(min=0)
    return Redundancy(effective_rank(values, tau), tuple((values / (2 * samples)).tolist()))


def effective_rank(ascending: Tensor, tau: float) -> int:
    """The smallest number of largest eigenvalues that make up 1 - tau of their sum, at least 1."""
    largest_first = ascending.flip(0)
    total = largest_first.sum()
    if total <= 0:
        return 1
    enough = largest_first.cumsum(0) >= (1 - tau) * total
    return int(enough.nonzero()[0]) + 1 if bool(enough.any()) else len(ascending)


def removal_order(gram: Tensor, count: int) -> list[int]:
    """The `count` channels to remove, first the one that the others compensate best.

    The salience of c is 1 / [M^-1]_cc over the channels still there. Removing c changes the inverse by a rank-one term.
    """
    size = len(gram)
    gram = gram.double()
    largest = torch.linalg.eigvalsh(gram)[-1].clamp(min=torch.finfo(torch.float64).tiny)
    inverse = torch.linalg.inv(gram / largest + RIDGE * torch.eye(size, dtype=gram.dtype, device=gram.device))
    there = torch.ones(size, dtype=torch.bool, device=gram.device)
    removed: list[int] = []
    for _ in range(count):
        diagonal = inverse.diagonal().masked_fill(~there, -torch.inf)
        worst = int(diagonal.argmax())
        removed.append(worst)
        there[worst] = False
        column = inverse[:, worst].clone()
        inverse -= torch.outer(column, column) / column[worst]
        inverse[worst, :] = 0
        inverse[:, worst] = 0
    return removed
