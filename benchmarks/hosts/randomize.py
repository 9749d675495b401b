"""Random weights that hide nothing: batch-norm statistics, negative gammas, and nothing left at zero."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.hosts.values import call
from convswap.surgery.sites import is_unit


def randomize(model: nn.Module, example: Any, seed: int = 0) -> nn.Module:
    """Draw affine parameters (some gammas negative), and set statistics near those of the example.

    With fresh statistics (mean 0, variance 1) a BatchNorm is nearly the identity, and a wrong fold would not show. A
    layer scale or a last convolution that starts at zero would hide everything before it. Statistics far from the
    maps' own would let all maps die out.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator, dtype=torch.float64).to(like.dtype)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(getattr(module, "running_var", None), Tensor):
                gamma, beta = getattr(module, "weight", None), getattr(module, "bias", None)
                if isinstance(gamma, Tensor):
                    gamma.copy_(uniform(gamma, 0.5, 1.5))
                    gamma[::7] *= -1
                if isinstance(beta, Tensor):
                    beta.copy_(uniform(beta, -0.2, 0.2))
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.numel() and parameter.abs().max() < 1e-3:
                parameter.copy_(uniform(parameter, 0.0, 0.3))
    return measure_statistics(model, example, generator)


def measure_statistics(model: nn.Module, example: Any, generator: torch.Generator) -> nn.Module:
    """Set all running statistics, in one pass in evaluation mode, to those of the example, give or take a third."""

    def measure(norm: nn.Module, args: Any) -> None:
        x = args[0].transpose(0, 1).flatten(1)
        spread = x.std(1, correction=0).clamp_min(1e-2)
        off = torch.rand((2, *spread.shape), generator=generator, dtype=torch.float64).to(spread.dtype)
        cast(Tensor, norm.running_mean).copy_(x.mean(1) + spread * (0.6 * off[0] - 0.3))
        cast(Tensor, norm.running_var).copy_(spread.square() * (0.6 + off[1]))

    norms = [module for module in model.modules() if isinstance(getattr(module, "running_var", None), Tensor)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    with torch.no_grad():
        call(model, example)
    for hook in hooks:
        hook.remove()
    return model


def units_of(model: nn.Module) -> list[nn.Module]:
    """The units in a model."""
    return [module for module in model.modules() if is_unit(module)]


def as_if_trained(model: nn.Module, example: Any, seed: int = 2) -> nn.Module:
    """Move every parameter of the units, gates that start closed included, as some training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for unit in units_of(model):
            for parameter in unit.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)
                still = parameter.abs().max() < 1e-3
                parameter.copy_(0.05 * noise if still else parameter * (1 + 0.1 * noise))
    return measure_statistics(model, example, generator)
