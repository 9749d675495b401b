"""Signs and evenly spaced levels with straight-through gradients: the elementary maps of binary convolution."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from .gradients import wants_gradient


def signs(x: Tensor) -> Tensor:
    """+1 where x >= 0 (also -0.0), else -1 (also NaN), in the type of x. No gradient.

    >>> signs(torch.tensor([-2.0, -0.0, 0.5, float("nan")]))
    tensor([-1.,  1.,  1., -1.])
    """
    one = torch.ones((), dtype=x.dtype, device=x.device)
    return torch.where(x >= 0, one, -one)


def levels(x: Tensor, bits: int) -> Tensor:
    """The nearest of 2^bits evenly spaced numbers from -1 to 1; for one bit the sign. No gradient.

    `q(x) = 2 (round((2^k - 1) (x + 1) / 2) / (2^k - 1) - 1/2)`, x clamped to [-1, 1] (arXiv:1603.05279, section 3.2).
    """
    if bits == 1:
        return signs(x)
    steps = 2**bits - 1
    wide = x.to(torch.promote_types(x.dtype, torch.float32)).clamp(-1, 1)
    return in_type((wide + 1).mul_(steps / 2).round_().mul_(2 / steps) - 1, x.dtype)


def in_type(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in another type, or x itself without a call.

    Torch 2.11 compiles a zero gradient for an `autograd.Function` whose forward ends with a call that returns its
    argument: a `to()` with nothing to do, or an operation in place.
    """
    return x if x.dtype == dtype else x.to(dtype)


def levels_ste(x: Tensor, bits: int) -> Tensor:
    """`levels(x, bits)`, whose gradient is passed straight through where |x| < 1 and stopped elsewhere."""
    if wants_gradient(x):
        return cast(Tensor, _Levels.apply(x, bits))
    return levels(x, bits)


def sign_ste(x: Tensor) -> Tensor:
    """`signs(x)`, whose gradient is passed straight through where |x| < 1 and stopped elsewhere."""
    return levels_ste(x, 1)


class _Levels(torch.autograd.Function):
    """Keeps one byte per number for its backward pass."""

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
