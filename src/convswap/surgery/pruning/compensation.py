"""Folding: what removed channels contributed is given to the weights of the kept ones.

A layer reads y. Let A = E[y y^T] over the calibration set. The best y_R from y_K, in least squares, is
B y_K with B = A_RK A_KK^+, and W_K + W_R B takes its place. Duplicates and positive multiples are folded exactly. There
is no constant term: at a map's border a padded zero is no constant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .narrow import Narrowing


def folded_weights(
    wide: nn.Module, narrow: Sequence[Narrowing], activations: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """By path, the narrow weights of the layers that read removed channels."""
    found: dict[str, Tensor] = {}
    for path, inputs, outputs in narrow:
        if inputs is None or path not in activations:
            continue
        layer: Any = wide.get_submodule(path)
        weight = layer.weight.detach().double()
        moment = activations[path].to(weight.device)
        removed = sorted(set(range(weight.shape[1])) - set(inputs))
        share = regression(moment, inputs, removed, torch.finfo(layer.weight.dtype).eps)
        kept = weight[:, inputs] + torch.einsum("or...,rk->ok...", weight[:, removed], share)
        found[path] = kept if outputs is None else kept[outputs]
    return found


def regression(moment: Tensor, kept: Sequence[int], removed: Sequence[int], precision: float) -> Tensor:
    """B = A_RK A_KK^+ (removed, kept), with directions below the activations' precision left out."""
    kept_part = moment[list(kept)][:, list(kept)]
    inverse = torch.linalg.pinv(kept_part, rtol=max(precision, 1e-12) * len(kept), hermitian=True)
    return moment[list(removed)][:, list(kept)] @ inverse


def fold(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put folded weights into a narrowed model, in place."""
    with torch.no_grad():
        for path, weight in weights.items():
            layer: Any = model.get_submodule(path)
            layer.weight.copy_(weight)
