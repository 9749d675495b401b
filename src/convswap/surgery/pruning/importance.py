"""The criteria by name, and the importances of those that give each channel a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..plan import Skip
from .groups import ChannelGroup, load_torch_pruning


@dataclass(frozen=True)
class Criterion:
    """One way to choose what goes.

    Attributes:
        paper: where it comes from.
        spread: `"uniform"` (the same share of every layer), `"global"` (the least important of the whole network) or
            `"layers"` (by the predicted error of each layer).
        needs_data: it reads gradients of a calibration set.
    """

    paper: str
    spread: str
    needs_data: bool = False


GRADIENT_REDUNDANCY = "gradient-redundancy"
CRITERIA = {
    "random": Criterion("", "uniform"),
    "l1": Criterion("arXiv:1608.08710", "uniform"),
    "fpgm": Criterion("arXiv:1811.00250", "uniform"),
    "bn-scale": Criterion("arXiv:1708.06519", "global"),
    "taylor": Criterion("arXiv:1906.10771", "global", needs_data=True),
    GRADIENT_REDUNDANCY: Criterion("after arXiv:2206.03596", "layers", needs_data=True),
}


def importances(
    criterion: str, model: nn.Module, groups: Sequence[ChannelGroup], seed: int
) -> tuple[list[ChannelGroup], list[Tensor], list[Skip]]:
    """For each group the importance of its elements. Groups without a number for this criterion are left out.

    torch-pruning's importances average over the layers of a group and divide by their mean, so that layers compare.
    """
    measure = _measure(criterion, model)
    kept, scores, skipped = [], [], []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for group in groups:
            score = measure(group)
            if score is None:
                skipped.append(Skip(group.path, f"nothing in its group has what {criterion} measures"))
                continue
            kept.append(group)
            scores.append(torch.stack([score[list(roots)].mean() for roots in group.roots]).double().cpu())
    return kept, scores, skipped


def _measure(criterion: str, model: nn.Module) -> Any:
    tp = load_torch_pruning()
    if criterion == "random":
        return lambda group: tp.importance.RandomImportance()(group.graph)
    if criterion == "l1":
        return lambda group: tp.importance.GroupMagnitudeImportance(p=1)(group.graph)
    if criterion == "bn-scale":
        return lambda group: tp.importance.BNScaleImportance()(group.graph)
    if criterion == "taylor":
        return lambda group: tp.importance.GroupTaylorImportance()(group.graph)
    return lambda group: geometric_median(model, group)


def geometric_median(model: nn.Module, group: ChannelGroup) -> Tensor:
    """FPGM: the sum of a filter's Euclidean distances to all filters of its layer, divided by the layer's mean.

    torch-pruning's own FPGM takes distances between powers of absolute weights, where filters of opposite signs agree.
    """
    count = sum(len(roots) for roots in group.roots)
    total = torch.zeros(count, dtype=torch.float64)
    for member in group.members:
        layer = model.get_submodule(member.path)
        if member.side == "out" and isinstance(layer, nn.Conv2d | nn.Linear):
            filters = layer.weight.detach().flatten(1).double().cpu()
            distances = torch.cdist(filters, filters).sum(1)
            distances = distances / distances.mean().clamp(min=torch.finfo(torch.float64).tiny)
            for roots, places in zip(group.roots, member.places, strict=True):
                total[list(roots)] += distances[list(places)].mean()
    return total
