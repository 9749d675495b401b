"""Re-estimating the batch-norm statistics of a trained network in the mode that evaluation uses."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import SurgeryError
from .inputs import ExampleInput, Inputs
from .modes import evaluating


def recalibrate_batch_norm(model: nn.Module, batches: Iterable[ExampleInput]) -> nn.Module:
    """Set every batch norm's running statistics to their average over these batches, in place.

    Everything else runs in eval mode, so a stochastic unit uses its expected kernel, as in inference. Statistics
    gathered under random draws fit that kernel only approximately. Momentum and modes are restored.

    Args:
        model: the model, which is also returned.
        batches: inputs, each in any form of `example_input`. A few hundred images in all are enough.

    Raises:
        SurgeryError: no batch was given.
    """
    norms = [cast(_BatchNorm, module) for module in model.modules() if _keeps_statistics(module)]
    momenta = [norm.momentum for norm in norms]
    remaining = iter(batches)
    first = next(remaining, None)
    if first is None:
        raise SurgeryError("recalibrate got no batches; pass at least one tensor (N, C, H, W)")
    with evaluating(model), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative average
            norm.train()
        for batch in chain([first], remaining):
            Inputs.of(batch, model).call(model)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


def _keeps_statistics(module: nn.Module) -> bool:
    """Is this a batch norm (torch's or a unit's own) that gathers running statistics?"""
    own = callable(getattr(module, "reset_running_stats", None)) and hasattr(module, "momentum")
    return own and bool(getattr(module, "track_running_stats", False))
