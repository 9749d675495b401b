"""Signs and levels with straight-through gradients: the elementary maps of the binary units (arXiv:1603.05279)."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ..errors import check_choice
from .contract import compute_dtype

GRADIENTS = ("chain", "printed", "program")


def signs(x: Tensor) -> Tensor:
    """+1 where x >= 0 (also -0.0), else -1 (also NaN), in the type of x. No gradient."""
    one = torch.ones((), dtype=x.dtype, device=x.device)
    return torch.where(x >= 0, one, -one)


def sign_ste(x: Tensor) -> Tensor:
    """`signs(x)`, whose gradient is passed straight through where |x| < 1 and stopped elsewhere."""
    if x.requires_grad and torch.is_grad_enabled():
        return cast(Tensor, _Sign.apply(x))
    return signs(x)


def levels(x: Tensor, bits: int) -> Tensor:
    """The nearest of 2^bits evenly spaced numbers from -1 to 1; for one bit the sign. No gradient.

    `q(x) = 2 (round((2^k - 1) (x + 1) / 2) / (2^k - 1) - 1/2)`, x clamped to [-1, 1] (arXiv:1603.05279, section 3.2).
    """
    if bits == 1:
        return signs(x)
    steps = 2**bits - 1
    wide = x.to(compute_dtype(x.dtype)).clamp(-1, 1)
    return in_type((wide + 1).mul_(steps / 2).round_().mul_(2 / steps) - 1, x.dtype)


def in_type(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in another type, or x itself without any call.

    Torch 2.11 compiles a zero gradient for an `autograd.Function` whose forward ends with a call that returns the
    tensor it was given: a `to()` with nothing to do, an operation in place.
    """
    return x if x.dtype == dtype else x.to(dtype)


def levels_ste(x: Tensor, bits: int) -> Tensor:
    """`levels(x, bits)`, whose gradient is passed straight through where |x| < 1 and stopped elsewhere."""
    if bits == 1:
        return sign_ste(x)
    if x.requires_grad and torch.is_grad_enabled():
        return cast(Tensor, _Levels.apply(x, bits))
    return levels(x, bits)


def scaled_sign(weight: Tensor, gradient: str = "chain") -> Tensor:
    """`alpha sign(W)` with alpha the mean of |W| over each filter: the nearest multiple of a sign tensor to W.

    With g the gradient of the result, n the numbers in a filter and C its input channels, the gradient of W is

    - `"chain"`: `alpha 1[|W| <= 1] g + sign(W) mean(g sign(W))`, the mean over the filter: the chain rule through
      alpha, straight through the sign;
    - `"printed"`: `(1/n + alpha 1[|W| < 1]) g`, as the paper's algorithm 1 prints it, without the coupling of all
      weights of a filter by alpha;
    - `"program"`: `"chain"` times `(1 - 1/C) n`, as the public program has it (without `1 - 1/C` where C = 1).

    Args:
        weight: (out, in/groups, kH, kW).
        gradient: one of the three.

    Raises:
        ValueError: `gradient` is none of them.
    """
    check_choice("gradient", gradient, GRADIENTS)
    if weight.requires_grad and torch.is_grad_enabled():
        return cast(Tensor, _ScaledSign.apply(weight, gradient))
    return signs(weight) * filter_scale(weight)


def filter_scale(weight: Tensor) -> Tensor:
    """The mean of |W| over each filter, (out, 1, 1, 1)."""
    return weight.abs().mean((1, 2, 3), keepdim=True)


class _Sign(torch.autograd.Function):
    """Keeps one byte a number for its backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return signs(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0].abs() < 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (inside,) = ctx.saved_tensors
        return grad * inside


class _Levels(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, bits: int) -> Tensor:
        return levels(x, bits)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0].abs() < 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (inside,) = ctx.saved_tensors
        return grad * inside, None


class _ScaledSign(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, gradient: str) -> Tensor:
        return signs(weight) * filter_scale(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.gradient = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        alpha, magnitude = filter_scale(weight), weight.abs()
        count, channels = weight[0].numel(), weight.shape[1]
        if ctx.gradient == "printed":
            return grad * (alpha * (magnitude < 1) + 1 / count), None
        sign = signs(weight)
        result = grad * alpha * (magnitude <= 1) + sign * (grad * sign).mean((1, 2, 3), keepdim=True)
        if ctx.gradient == "program":
            result = result * (count * (1 - 1 / channels if channels > 1 else 1))
        return result, None
