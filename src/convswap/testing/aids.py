"""Helpers that the rules share: inputs, training steps, comparisons and snapshots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from .case import Case
from .rule import demand


def image(module: Any, batch: int = 2, size: tuple[int, int] = (7, 6)) -> Tensor:
    """A random input with the module's channels, device and dtype."""
    like = next(t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point())
    return torch.randn(batch, module.in_channels, *size, dtype=like.dtype, device=like.device)


def train_steps(module: Any, steps: int = 3) -> None:
    """Take a few random training steps. The mode is left as it was."""
    mode = module.training
    module.train()
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained or [torch.zeros(1)], lr=0.05)
    for _ in range(steps):
        output = module(image(module))
        optimizer.zero_grad()
        (output * torch.randn_like(output)).sum().backward()
        nn.utils.clip_grad_norm_(trained, 10.0)  # else a deep block diverges and proves nothing
        optimizer.step()
    module.train(mode)


@torch.no_grad()
def randomize_batch_norms(module: nn.Module) -> None:
    """Set random statistics and affine parameters, with a negative scale among them, in every BatchNorm inside."""
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            if norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                norm.weight.normal_()
                norm.weight[0] = -1.5
                norm.bias.normal_()


def lived_in(case: Case, geometry: Mapping[str, Any] | None = None, dtype: torch.dtype | None = None) -> Any:
    """A unit in eval mode after training steps, with random BatchNorm statistics; by default in its home."""
    unit = case.build(case.homes()[0] if geometry is None else geometry, dtype=dtype)
    train_steps(unit)
    randomize_batch_norms(unit)
    return unit.eval()


def difference(value: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected magnitude; the shapes must agree."""
    demand(value.shape == expected.shape, f"shape {tuple(value.shape)} in place of {tuple(expected.shape)}")
    if expected.numel() == 0:
        return 0.0
    scale = expected.detach().double().abs().max().clamp(min=1e-12)
    return float((value.detach().double() - expected.detach().double()).abs().max() / scale)


def demand_close(value: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Raise unless two tensors of one shape agree. NaN agrees with nothing."""
    found = difference(value, expected)
    demand(found <= tolerance, f"{what} differs by {found:.2g} (relative), more than {tolerance:g}")


def gradients(module: nn.Module, run: Callable[[], Tensor], seed: int = 1) -> dict[str, Tensor | None]:
    """Gradients by parameter name of a random linear function of `run()`."""
    module.zero_grad()
    output = run()
    factor = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(output)
    (output * factor).sum().backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


def demand_same_gradients(got: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float, what: str) -> None:
    """Raise unless the same parameters have gradients and the gradients are equal."""
    demand(got.keys() == expected.keys(), f"{what}: gradients of {sorted(got)} in place of {sorted(expected)}")
    for name, gradient in expected.items():
        demand((got[name] is None) == (gradient is None), f"{what}: only one of two gradients of {name} exists")
        if gradient is not None:
            demand_close(got[name], gradient, tolerance, f"{what}: the gradient of {name}")


def flops(module: nn.Module, x: Tensor) -> int:
    """The operations that torch's own counter finds in a forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return counter.get_total_flops()


def snapshot(module: nn.Module) -> dict[str, Any]:
    """Everything that a caller must leave unchanged: values, `requires_grad` flags and modes."""
    return {
        "state": {name: value.clone() for name, value in module.state_dict().items()},
        "buffers": {name: value.clone() for name, value in module.named_buffers()},
        "trainable": {name: p.requires_grad for name, p in module.named_parameters()},
        "modes": {name: child.training for name, child in module.named_modules()},
        "types": {name: type(child) for name, child in module.named_modules()},
    }


def demand_untouched(module: nn.Module, before: dict[str, Any], what: str) -> None:
    """Raise unless a module equals its snapshot."""
    after = snapshot(module)
    for part in ("trainable", "modes", "types"):
        demand(after[part] == before[part], f"{what} changed the {part} of the unit")
    for part in ("state", "buffers"):
        demand(after[part].keys() == before[part].keys(), f"{what} changed the names of the unit's tensors")
        for name, value in before[part].items():
            demand(torch.equal(after[part][name], value), f"{what} changed {name} of the unit")
