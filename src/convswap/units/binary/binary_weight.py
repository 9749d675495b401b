"""Binary weights: one positive scale per filter times a tensor of signs (arXiv:1603.05279)."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ...errors import check_choice
from ...ops.gradients import wants_gradient
from ...ops.signs import signs
from ..contract.precision import compute_dtype
from ..contract.registry import register_unit
from ..contract.weight import WeightUnit

GRADIENTS = ("chain", "printed", "program")


@register_unit(
    "binary_weight",
    paper="arXiv:1603.05279",
    year=2016,
    summary="weights of one scale per filter times +-1",
    warm_start="approximate",
    fusion="conv",
    gradient="straight_through",
    default_where="!first & !output & !depthwise & !*downsample* & !*shortcut*",
    placement="paper",
    variants=({"gradient": "printed"}, {"gradient": "program"}, {"center": False}),
)
class BinaryWeightConv2d(WeightUnit):
    """A convolution with the weight `alpha sign(W)`, alpha being the mean of |W| over each filter (BWN).

    W is (out, in/groups, kH, kW), alpha one number per output channel; `sign(0) = +1`. This is the product of a number
    and a sign tensor that is nearest to W. Training changes the real weights W. Their gradient is the chain rule
    through alpha, straight through the sign where |W| <= 1 (`scaled_sign` has the formulas).

    After every step of training (and once before the first) `constrain_()` changes the real weights in place, as
    both public programs do. It subtracts the mean over the input channels, one mean for each filter and tap, then clips
    to [-1, 1]. The training loop of convswap calls `constrain_()`; your own loop must call it, too.

    By default all convolutions are replaced except the first, the last layer if it is a convolution, the 1x1
    convolutions of shortcuts (by their names, `downsample` or `shortcut`), and depthwise ones (`supports` accepts them:
    a filter has one input channel, so nothing is centred).

    Args:
        gradient: `"chain"`, the correct chain rule; `"printed"`, the paper's algorithm 1 as printed; or `"program"`,
            the chain rule times `(1 - 1/C) n` as in the public PyTorch program, C being the input channels of a filter
            and n its weights.
        center: whether `constrain_()` subtracts the mean. It never does so for filters with one input channel, where
            every weight would become zero.

    The other arguments are those of `nn.Conv2d`.

    Raises:
        ValueError: an option is not allowed.
    """

    def setup(self, *, gradient: str = "chain", center: bool = True) -> None:
        """Check the options and build the unit; see the class."""
        check_choice("gradient", gradient, GRADIENTS)
        check_choice("center", center, (True, False))
        self.gradient, self.center = gradient, center

    @classmethod
    @torch.no_grad()
    def warm_start_for(cls, conv: nn.Conv2d, **options: Any) -> Literal["approximate", "none"] | None:
        """`"approximate"` where the outputs for white noise correlate by 2/3 or more, `"none"` for heavier tails.

        That correlation is the cosine between W and `alpha sign(W)`: 0.80 for normally distributed weights.
        """
        if conv.weight.is_meta:
            return None
        weight = conv.weight.double()
        binary = scaled_sign(weight)
        cosine = (weight * binary).sum() / (weight.norm() * binary.norm()).clamp(min=torch.finfo(weight.dtype).tiny)
        return "approximate" if cosine >= 2 / 3 else "none"

    def effective_weight(self) -> Tensor:
        """`alpha sign(W)`: (out_channels, in_channels/groups, kH, kW)."""
        return scaled_sign(self.weight.to(compute_dtype(self.weight.dtype)), self.gradient)

    @torch.no_grad()
    def constrain_(self) -> None:
        """Subtract the mean over the input channels from the real weights and clip them to [-1, 1], in place."""
        if self.center and self.weight.shape[1] > 1:
            self.weight.sub_(self.weight.mean(1, keepdim=True))
        self.weight.clamp_(-1, 1)


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
    if wants_gradient(weight):
        return cast(Tensor, _ScaledSign.apply(weight, gradient))
    return signs(weight) * filter_scale(weight)


def filter_scale(weight: Tensor) -> Tensor:
    """The mean of |W| over each filter, (out, 1, 1, 1)."""
    return weight.abs().mean((1, 2, 3), keepdim=True)


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
