"""The optimizers a recipe can name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from .parameters import parameter_groups
from .recipes import Recipe
from .shift_adamax import ShiftAdaMax


def build_optimizer(model: nn.Module, recipe: Recipe, device: torch.device) -> Optimizer:
    """The recipe's optimizer over the model's parameter groups, with torch's fused steps where torch has them."""
    groups = parameter_groups(
        model,
        recipe.weight_decay,
        decay_all=recipe.decay_all,
        layer_decay=recipe.layer_decay,
        norm_bias_scale=recipe.norm_bias_scale,
    )
    rate = recipe.learning_rate
    if recipe.optimizer in ("rmsprop", "rmsprop_tf"):
        return _rmsprop(groups, recipe)
    betas = (recipe.momentum, 0.999 if recipe.beta2 is None else recipe.beta2)
    epsilon: dict[str, Any] = {} if recipe.epsilon is None else {"eps": recipe.epsilon}
    if recipe.optimizer == "shift_adamax":
        return ShiftAdaMax(groups, lr=rate, betas=betas, **epsilon)
    if recipe.optimizer == "lamb":
        from timm.optim import Lamb

        # timm's own limit of the gradients' norm would hide what `clip_norm` says.
        return Lamb(groups, lr=rate, betas=betas, weight_decay=0.0, max_grad_norm=None, **epsilon)
    # Fused steps take the scale of fp16 out of the gradients themselves, so that nothing could be clipped before.
    fused = _can_fuse(model, device) and recipe.precision != "fp16"
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=rate, betas=betas, fused=fused, **epsilon)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=betas, fused=fused, **epsilon)
    return torch.optim.SGD(groups, lr=rate, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=fused)


def _rmsprop(groups: list[dict[str, Any]], recipe: Recipe) -> Optimizer:
    how: dict[str, Any] = {"lr": recipe.learning_rate, "momentum": recipe.momentum}
    how["alpha"] = 0.9 if recipe.beta2 is None else recipe.beta2
    if recipe.epsilon is not None:
        how["eps"] = recipe.epsilon
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, **how)
    from timm.optim import RMSpropTF

    return RMSpropTF(groups, **how)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set every group's learning rate, times the group's own `"lr_scale"` if there is one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def _can_fuse(model: nn.Module, device: torch.device) -> bool:
    """Whether torch's fused steps work here: they need real floating-point parameters on CPU or CUDA."""
    real = all(parameter.is_floating_point() for parameter in model.parameters())
    return real and device.type in ("cpu", "cuda")
