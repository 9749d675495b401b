"""The optimizers a recipe can name."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from .parameters import parameter_groups
from .recipes import Recipe
from .shift_adamax import ShiftAdaMax


def build_optimizer(model: nn.Module, recipe: Recipe, device: torch.device) -> Optimizer:
    """The recipe's optimizer over the model's parameter groups, with torch's fused steps where torch has them."""
    groups = parameter_groups(model, recipe.weight_decay)
    betas = (recipe.momentum, 0.999)
    if recipe.optimizer == "shift_adamax":
        return ShiftAdaMax(groups, lr=recipe.learning_rate, betas=betas)
    fused = _can_fuse(model, device)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.learning_rate, betas=betas, fused=fused)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=betas, fused=fused)
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=fused
    )


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set every group's learning rate, times the group's own `"lr_scale"` if there is one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def _can_fuse(model: nn.Module, device: torch.device) -> bool:
    """Whether torch's fused steps work here: they need real floating-point parameters on CPU or CUDA."""
    real = all(parameter.is_floating_point() for parameter in model.parameters())
    return real and device.type in ("cpu", "cuda")
