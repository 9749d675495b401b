"""Eval mode for the length of a block, every module's own mode put back after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put models in eval mode; on leaving, each submodule gets back the mode it had (they may differ)."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    was_training = [model for model in models if model.training]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for model in was_training:
            model.train()  # a host's own train() may do more than set flags
        for module, training in modes:
            module.training = training
