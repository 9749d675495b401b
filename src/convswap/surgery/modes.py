"""Eval mode, or parameters without gradients, inside a `with` block. Everything gets its own state back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put models in eval mode. On leaving, each submodule gets its own mode back (modes may differ)."""
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


@contextmanager
def without_gradients(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient. Under `no_grad` alone, the views of a parameter still say that they do."""
    asked = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in asked:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)
