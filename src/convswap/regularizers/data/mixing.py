"""What the mixers share: who is mixed with whom, and what becomes of the labels."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contract import class_weights


def partners(count: int, device: torch.device) -> Tensor:
    """(count,) the row that each row is mixed with: neighbours 0 and 1, 2 and 3, ... swap places.

    Batches are shuffled, so fixed pairs are random pairs. Unlike a roll through the batch, pairs are the same for any
    number of processes with an even number of rows each. Of an odd number the last row gets the first.

    >>> partners(5, torch.device("cpu")).tolist()
    [1, 0, 3, 2, 0]
    """
    row = torch.arange(count, device=device)
    swapped = row ^ 1
    return torch.where(swapped < count, swapped, 0)


def mix_targets(targets: Tensor, partner: Tensor, share: float, num_classes: int) -> Tensor:
    """Class weights (N, classes): `share` of the own label and 1 - `share` of the partner's."""
    own = class_weights(targets, num_classes)
    return own.mul(share).add_(own[partner], alpha=1 - share)
