"""A square and a circle kernel side by side, each with its BatchNorm, fused to one convolution."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ..contract.feature import FeatureUnit
from ..contract.geometry import Geometry, plain_conv
from ..contract.precision import double_copy
from ..contract.registry import register_unit
from ..support.folding import batch_norm_affine
from . import geometry
from .circle import CircleConv2d


@register_unit(
    "circle_square",
    paper="arXiv:2107.02451",
    year=2021,
    summary="square and circle branches with a BatchNorm each: kernel boosting, our reading",
    warm_start="exact",
    fusion="conv",
    train_eval="batch_norm",
    variants=({"radius": "learnable"},),
    no_weight_decay=("radius_logit",),
)
class CircleSquareConv2d(FeatureUnit):
    """Two branches with weights of their own: `y = BN_1(conv(x, W_1)) + BN_2(conv(x, w_2 T))`.

    W_1 and w_2 are (out, in/groups, K, K), T is the sampling matrix of the `circle` unit. `fuse()` gives one plain
    convolution, `W = s_1 W_1 + s_2 (w_2 T)` and `b = sum_k beta_k - mean_k s_k` with `s = gamma / sqrt(var + eps)`,
    exact in evaluation for every stride, padding, padding mode, dilation and number of groups.

    The paper's abstract speaks of integrating circle with square kernels ("kernel boosting"). That it means these
    two branches is **our reading**: the official code holds only the stochastic mixture (`circle_mix`). Once fused,
    the learned function is a convolution of the same shape. For K = 3, 5 and 7 either branch alone spans all of
    those functions, so a difference can only come from training.

    Starting from a trained convolution gives each branch half of its function and the BatchNorms the identity:
    exact in evaluation for every K (where T is singular the square branch takes what the circle cannot express).
    The first training steps normalise by batch statistics, as any fresh BatchNorm does.

    A convolution's bias has no effect before a BatchNorm. `bias=True` therefore means that `bias` is the shift of
    the square branch's BatchNorm and starts from the host's bias; with `bias=False` the attribute is None.

    Args:
        angles, ring, radius: as for `CircleConv2d`.

    The other arguments are those of `nn.Conv2d`; the kernel must be square, odd and at least 3x3.

    Raises:
        ValueError: an option or the kernel size is not allowed.
    """

    def setup(self, *, angles: str = "even", ring: str = "max", radius: float | str = 1.0) -> None:
        """Check the options and build the unit; see the class."""
        place = self.place
        arguments = self.geometry.arguments() | {"bias": False}
        self.square = nn.Conv2d(**arguments, **place)
        self.square_bn = nn.BatchNorm2d(self.out_channels, **place)
        self.circle = CircleConv2d(**arguments, angles=angles, ring=ring, radius=radius, **place)
        self.circle_bn = nn.BatchNorm2d(self.out_channels, **place)
        self.has_bias = self.geometry.bias

    @classmethod
    def supports(cls, conv: nn.Conv2d, **options: Any) -> str | None:
        """Why a circle cannot stand there (its kernel is not square, not odd or 1x1), or None."""
        return geometry.refused_kernel(conv)

    @property
    def weight(self) -> Tensor:
        """The square branch's weight: (out_channels, in_channels/groups, K, K)."""
        return self.square.weight

    @property
    def bias(self) -> Tensor | None:
        """The shift of the square branch's BatchNorm (out_channels,), or None if built with `bias=False`."""
        return self.square_bn.bias if self.has_bias else None

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        y: Tensor = self.square_bn(self.square(input))
        return y + self.circle_bn(self.circle(input))

    def fuse(self) -> nn.Conv2d:
        """One plain `nn.Conv2d` with a bias, formed in float64 and cast last; equal in evaluation.

        Raises:
            FusionError: a BatchNorm keeps no running statistics, so evaluation is not linear in the input.
        """
        with torch.no_grad():
            exact = double_copy(self)
            first, first_shift = _folded(exact.square.weight, exact.square_bn)
            second, second_shift = _folded(exact.circle.effective_weight(), exact.circle_bn)
            return plain_conv(
                Geometry.of(self), first + second, first_shift + second_shift, like=self.weight, train=self.training
            )

    def start_from(self, conv: nn.Conv2d) -> None:
        """Half of the function to each branch; both BatchNorms start as the identity of evaluation."""
        self.copy_initial(conv)
        if not self.weight.is_meta:
            exact = double_copy(self.circle).cpu()
            target = conv.weight.to("cpu", torch.float64)
            exact.weight.copy_(target / 2)
            exact.start_from(exact)
            self.circle.weight.copy_(exact.weight)
            exact.weight.copy_(self.circle.weight)  # the rounded weight: the square branch takes the rest
            self.square.weight.copy_(target - exact.effective_weight())
        for norm in (self.square_bn, self.circle_bn):
            cast(Tensor, norm.running_var).fill_(1 - norm.eps)

    def copy_initial(self, conv: nn.Conv2d) -> None:
        """The square branch takes the host's draw; the circle keeps its own, at the host's standard deviation."""
        super().copy_initial(conv)
        self.circle.weight.mul_(conv.weight.std() / self.circle.weight.std())


def _folded(weight: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A bias-free convolution's weight and the BatchNorm after it, as one weight and one bias."""
    scale, shift = batch_norm_affine(norm)
    return weight * scale[:, None, None, None], shift
