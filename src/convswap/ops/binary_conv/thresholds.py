"""The sign of a function of one number that only rises or only falls, as one comparison: `(x >= threshold) xor flip`.

Bisection with the function itself finds the thresholds, so they answer as the function does, rounding included.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import FusionError

#: Thresholds that give every dot product the same answer: always below, always above.
NEVER, ALWAYS = torch.iinfo(torch.int32).max, torch.iinfo(torch.int32).min


def bisect_sign(positive: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where `positive` changes between the integers low and high, elementwise: (first, at_low, at_high).

    `first` is the smallest integer in (low, high] whose answer differs from that at low. Meaningless where the
    answers at low and at high agree.

    >>> square_above_10 = lambda n: n * n > 10
    >>> bisect_sign(square_above_10, torch.tensor([0]), torch.tensor([100]))[0]
    tensor([4])
    """
    at_low, at_high = positive(low), positive(high)
    for _ in range(int((high - low).max()).bit_length() if low.numel() else 0):
        # Written so that the sum of far-apart ends does not overflow.
        middle = low + (high - low) // 2
        same = positive(middle) == at_low
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    return high, at_low, at_high


def _to_number(order: Tensor, dtype: torch.dtype) -> Tensor:
    """The floating-point number at a place in their order. 0 is both zeros; adjacent places are adjacent numbers."""
    whole = torch.int64 if dtype == torch.float64 else torch.int32
    magnitude = order.abs().to(whole).view(dtype)
    return torch.where(order < 0, -magnitude, magnitude)


def threshold_of(positive: Callable[[Tensor], Tensor], channels: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """(threshold, flip), each (channels,): `positive(x) == (x >= threshold) ^ flip` for all finite x of like's dtype.

    Args:
        positive: (channels,) numbers -> (channels,) bool, monotone in each channel.
        channels: how many.
        like: sets device and precision: float64, else float32.
    """
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    whole = torch.int64 if dtype == torch.float64 else torch.int32
    largest = torch.tensor(torch.finfo(dtype).max, dtype=dtype).view(whole).item()
    # Two halves, so that the distance of the ends fits in 64 bits.
    ends = [torch.full((channels,), value, dtype=torch.int64, device=like.device) for value in (-largest, 0, largest)]

    def ask(order: Tensor) -> Tensor:
        return positive(_to_number(order, dtype))

    below, at_low, at_zero = bisect_sign(ask, ends[0], ends[1])
    above, _, at_high = bisect_sign(ask, ends[1], ends[2])
    change = torch.where(at_low != at_zero, below, above)
    constant = at_low == at_high
    threshold = torch.where(constant, float("-inf"), _to_number(change, dtype))
    return threshold, torch.where(constant, ~at_low, at_low)


def batch_norm_threshold(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(threshold, flip) with `norm(x) >= 0` equal to `(x >= threshold) ^ flip`, for a BatchNorm in eval mode.

    A negative scale reverses the comparison (flip). A scale of 0 makes it constant: `threshold = -inf`. The answers
    equal those of torch's own BatchNorm on this device, to the last bit. Precision: float64 for a float64 norm, else
    float32.

    Raises:
        FusionError: the norm keeps no running statistics, so it is not a fixed function.
    """
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        raise FusionError(f"{norm} keeps no running statistics: it normalises by the batch and has no threshold")
    dtype = torch.float64 if mean.dtype == torch.float64 else torch.float32
    if mean.is_meta:
        return torch.empty_like(mean, dtype=dtype), torch.empty_like(mean, dtype=torch.bool)
    weight, bias = (None if p is None else p.detach().to(dtype) for p in (norm.weight, norm.bias))
    statistics = mean.to(dtype), var.to(dtype)

    def positive(x: Tensor) -> Tensor:
        image = x[None, :, None, None].expand(1, -1, 4, 4).contiguous()
        y = F.batch_norm(image, *statistics, weight, bias, False, 0.0, norm.eps)
        return y[0, :, 0, 0] >= 0

    with torch.no_grad():
        return threshold_of(positive, mean.numel(), statistics[0])


def dot_thresholds(
    scale: Tensor,
    bias: Tensor | None,
    relu: bool,
    threshold: Tensor | None,
    flip: Tensor | None,
    largest: int,
) -> tuple[Tensor, Tensor]:
    """The sign of `relu?(dot * scale + bias) >= threshold (xor flip)` as `(dot >= t) ^ f`: (t int32, f bool).

    Args:
        scale, bias: (out,), of the convolution whose sums are the dots.
        relu: whether a rectifier follows the convolution.
        threshold, flip: (out,), with which the next layer packs its input.
        largest: no dot is larger than this, or smaller than its negative.
    """

    exact = torch.promote_types(scale.dtype, torch.float32)

    def positive(dots: Tensor) -> Tensor:
        y = dots.to(exact) * scale.to(exact)
        y = y if bias is None else y + bias.to(exact)
        y = (y.relu() if relu else y).to(scale.dtype).to(exact)  # as a layer that writes numbers would hand it on
        bits = y >= (0 if threshold is None else threshold.to(exact))
        return bits if flip is None else bits ^ flip

    ends = (torch.full_like(scale, value, dtype=torch.int64) for value in (-largest, largest))
    with torch.no_grad():
        first, at_low, at_high = bisect_sign(positive, *ends)
    constant = at_low == at_high
    decided = torch.where(at_low, ALWAYS, NEVER)
    return torch.where(constant, decided, first).to(torch.int32), torch.where(constant, False, at_low)
