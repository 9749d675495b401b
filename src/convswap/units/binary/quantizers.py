"""Quantisers with straight-through gradients: sign, k-bit linear and logarithmic levels (arXiv:1609.07061)."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ...errors import UsageError, check_number, is_whole
from ...ops.gradients import wants_gradient
from ...ops.signs import in_type, signs
from ..contract.precision import compute_dtype
from ..support.draws import uniform

FULL = 32
"""The number of bits that means "not quantised"."""
SCHEMES = ("linear", "log")


def check_bits(name: str, bits: object, least: int = 1) -> None:
    """Raise a `UsageError` unless `bits` is a whole number from `least` to 16, or 32 for full precision."""
    if not is_whole(bits) or not (least <= bits <= 16 or bits == FULL):
        raise UsageError(f"{name}={bits!r} is not allowed; give {least} to 16 bits, or {FULL} for full precision")


def check_dropout(value: object) -> None:
    """Raise a `UsageError` unless `value` is a number from 0 to below 1."""
    check_number("dropout", value, lambda p: 0 <= p < 1, "a number from 0 to below 1")


def nearest_power_of_two(x: Tensor) -> Tensor:
    """AP2(x) = sign(x) 2^round(log2 |x|), element by element: the nearest power of two in the exponent; AP2(0) = 0.

    Rounding log2 |x| instead of |x| itself makes 2^(n + 1/2) the border between 2^n and 2^(n+1). Ties do not occur: the
    border is irrational.

    >>> nearest_power_of_two(torch.tensor([0.0, 3.0, -2.8, -0.1])).tolist()
    [0.0, 4.0, -2.0, -0.125]
    """
    exact = x.to(compute_dtype(x.dtype))
    return (torch.exp2(torch.log2(exact.abs()).round()) * exact.sign()).to(x.dtype)


def quantize(x: Tensor, bits: int, scheme: str = "linear", *, signed: bool = True, key: Tensor | None = None) -> Tensor:
    """Numbers of [-1, 1] (unsigned: [0, 1]) as one of 2^bits levels; numbers outside become the outermost level.

    - 1 bit, signed: the sign, +1 from 0 on; with a key it is +1 with probability clip((x + 1)/2, 0, 1);
    - linear, signed: `clip(round(x n)/n, -1, 1 - 1/n)` with n = 2^(bits-1);
      unsigned: `clip(round(x n)/n, 0, 1)` with n = 2^bits - 1;
    - log: 0 and (signed: plus and minus) 2^-j with j = 0 .. m - 1, where m = 2^(bits-1) - 1 (unsigned: 2^bits - 1);
      |x| is rounded to the nearest power of two in the exponent, and to 0 below 2^(1/2 - m).

    Rounding is to the nearest; with a key it is stochastic (up with a probability of the part cut off, of x n or of
    log2 |x|), drawn by the key. No gradient; NaN gives -1 for one bit and NaN otherwise.

    Args:
        x: any shape and floating precision; computed in at least float32.
        bits: 1 to 16, or 32: x as it is.
        scheme: `"linear"` or `"log"`.
        signed: whether negative numbers have levels.
        key: 32 random bits, see `draws`.
    """
    if bits == FULL:
        return x
    if bits == 1 and signed:
        if key is None:
            return signs(x)
        return in_type(signs((x.to(compute_dtype(x.dtype)) + 1) / 2 - _above_zero(key, x)), x.dtype)
    wide = x.to(compute_dtype(x.dtype))
    found = _linear if scheme == "linear" else _log
    return in_type(found(wide, bits, signed, None if key is None else uniform(key, x)), x.dtype)


def _above_zero(key: Tensor, like: Tensor) -> Tensor:
    """Uniform on the odd multiples of 2^-25: never 0 and never 1, so that probabilities 0 and 1 are certain."""
    return uniform(key, like) + 2.0**-25


def _linear(x: Tensor, bits: int, signed: bool, noise: Tensor | None) -> Tensor:
    n = 2 ** (bits - 1) if signed else 2**bits - 1
    rounded = (x * n).round() if noise is None else (x * n + noise).floor()
    return (rounded.clamp(-n, n - 1) if signed else rounded.clamp(0, n)) / n


def _log(x: Tensor, bits: int, signed: bool, noise: Tensor | None) -> Tensor:
    count = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    exponent = torch.log2(x.abs())
    exponent = exponent.round() if noise is None else (exponent + noise).floor()
    sign = x.sign() if signed else (x > 0).to(x.dtype)
    # below the last level is 0; the clamp keeps exp2 in range
    return torch.exp2(exponent.clamp(-count, 0)) * sign * (exponent > -count)


def quantize_ste(
    x: Tensor,
    bits: int,
    scheme: str = "linear",
    *,
    signed: bool = True,
    key: Tensor | None = None,
    clipped: bool = True,
) -> Tensor:
    """`quantize(x, ...)`, whose gradient is passed straight through inside the range: |x| <= 1, unsigned 0 <= x <= 1.

    With `clipped=False` it is passed everywhere. That is for weights, whose range is kept by clipping after the step,
    and for outputs of a HardTanh.
    """
    if bits == FULL:
        return x
    if wants_gradient(x):
        return cast(Tensor, _Quantize.apply(x, bits, scheme, signed, key, clipped))
    return quantize(x, bits, scheme, signed=signed, key=key)


def quantize_gradient(x: Tensor, bits: int) -> Tensor:
    """x itself, whose gradient is rounded to logarithmic levels on its way back.

    The gradient g becomes `s log(g / s)` with the signed levels of `quantize` and s = AP2(max |g|) over the tensor (the
    range is inferred: the paper gives 6 bits and no range).
    """
    if bits == FULL or not wants_gradient(x):
        return x
    return cast(Tensor, _Gradient.apply(x, bits))


class _Quantize(torch.autograd.Function):
    """Keeps one byte per number for its backward pass, or nothing."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, bits: int, scheme: str, signed: bool, key: Tensor | None, clipped: bool) -> Tensor:
        return quantize(x, bits, scheme, signed=signed, key=key)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, _, signed, _, ctx.clipped = inputs
        if ctx.clipped:
            ctx.save_for_backward(x.abs() <= 1 if signed else (x >= 0) & (x <= 1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return (grad * ctx.saved_tensors[0] if ctx.clipped else grad), None, None, None, None, None


class _Gradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, bits: int) -> Tensor:
        return x.clone()  # a view made here could not be overwritten by an in-place activation

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.bits = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        if grad.numel() == 0:
            return grad, None
        wide = grad.to(compute_dtype(grad.dtype))
        scale = nearest_power_of_two(wide.abs().amax())
        unit = torch.where(scale > 0, scale, torch.ones_like(scale))
        return (quantize(wide / unit, ctx.bits, "log") * scale).to(grad.dtype), None
