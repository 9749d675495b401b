"""Dendrite-activated connections (DAC): every connection adds its own bias to its input and rectifies."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError, check_choice, check_number, check_whole
from ...ops.dendritic import dendritic_conv2d, register_flops
from ..contract.feature import FeatureUnit
from ..contract.geometry import Geometry
from ..contract.registry import register_unit
from ..support.padding import margins, pad
from .levels import LevelConv2d, biases_by_input, fold_affine, level_form

_SHARINGS = ("pair", "tap", "input")


@register_unit(
    "dendritic",
    paper="arXiv:2301.00924",
    year=2023,
    summary="every connection between two channels rectifies its input after a bias of its own",
    warm_start="approximate",
    fusion="none",
    default_where="spatial & !first",
    variants=(
        {"bias_init": 0.5},
        {"pad": "before"},
        {"bias_sharing": "tap", "bias_init": 0.5},
        {"bias_sharing": "input"},
        {"bias_sharing": "input", "pad": "before", "bias_init": 0.5},
    ),
    no_weight_decay=("dendrite_bias",),
)
class DendriticConv2d(FeatureUnit):
    """A dendritic convolution: `out[n, o, p] = sum_c sum_t W[o, c, t] relu(x[n, c, s p + t] + B[o, c]) + b[o]`.

    W is (out, in/groups, kH, kW). The activation stands before the weights and has its own kink for every pair of
    channels. The input should therefore arrive un-rectified, and the output leaves linear: `swap` removes a ReLU that
    feeds only dendritic units (`absorbs_relu_before`). An ordinary bias b of the host is kept; the paper has none.

    The operator `convswap::dendritic_conv2d` never holds the (N, out, in, H, W) activations. It forms them in chunks,
    and again for the backward pass. It has the multiplications of a convolution; `ops.dendritic.
    elementwise_operations` counts the further additions and comparisons (1/9 of the multiplications for 3x3).

    From arXiv:2301.00924 (WACV 2024) we know the formula of a unit, that it goes into the convolutions of ResNets and
    that it costs a "modest" number of parameters. The official code and the body of the paper were not available. We
    **inferred** the sharing of B over taps, padding after the activation, B = 0 at the start, no weight decay on B,
    and the placement: all spatial convolutions except the first.

    Starting from a convolution copies its weights with B = 0, whatever `bias_init`. The unit then is exactly
    `conv(relu(x))`. That is the host's own function if the host rectifies before the convolution, and at best an
    approximation if it does not.

    Args:
        bias_sharing: `"pair"`: B is (out, in/groups), one bias per pair of channels; `"tap"`: (out, in/groups, kH,
            kW), one per connection; `"input"`: (in,), the ordinary pre-activation unit, the exact baseline.
        pad: `"after"`: zero padding of the rectified map, padded pixels contribute nothing; `"before"`: x is padded,
            and a padded pixel contributes `w relu(b)`. Reflecting, replicating and circular padding copy pixels, for
            which both orders are the same.
        bias_init: B starts uniform in plus or minus this number; 0 starts all at 0.

    The other arguments are those of `nn.Conv2d`.

    Raises:
        ValueError: an option is not allowed.
    """

    absorbs_relu_before = True

    def setup(self, *, bias_sharing: str = "pair", pad: str = "after", bias_init: float = 0.0) -> None:
        """Check the options and build the unit; see the class."""
        check_choice("bias_sharing", bias_sharing, _SHARINGS)
        check_choice("pad", pad, ("after", "before"))
        _check_bias_init(bias_init)
        place = self.place
        self.bias_sharing, self.pad, self.bias_init = bias_sharing, pad, bias_init
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        own = {"pair": shape[:2], "tap": shape, "input": (self.in_channels,)}[bias_sharing]
        self.weight = nn.Parameter(torch.empty(shape, **place))
        self.dendrite_bias = nn.Parameter(torch.empty(own, **place))
        self.bias = nn.Parameter(torch.empty(self.out_channels, **place)) if self.geometry.bias else None
        self.reset_parameters()
        register_flops()

    @classmethod
    def warm_start_for(cls, conv: nn.Conv2d, **options: Any) -> Literal["approximate", "none"]:
        """`"approximate"` if `conv(relu(x))` should follow `conv(x)` even on inputs that no ReLU has passed.

        For standard normal x the correlation of the two over images, pixels and channels follows from the weights. It
        is near 0.7 for random weights. Below 0.55, and for fewer than 16 input channels, nothing is promised.
        """
        if conv.in_channels < 16:
            return "none"
        return "approximate" if conv.weight.is_meta or rectified_correlation(conv) > 0.55 else "none"

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        register_flops()  # an unpickled module does not pass its constructor

    def reset_parameters(self) -> None:
        """Weight and output bias as in `nn.Conv2d`, the dendrites' biases by `bias_init`."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)
        nn.init.uniform_(self.dendrite_bias, -self.bias_init, self.bias_init)

    def start_from(self, conv: nn.Conv2d) -> None:
        """Copy weight and bias; the dendrites' biases start at 0: the unit is `conv(relu(x))`."""
        super().start_from(conv)
        self.dendrite_bias.zero_()

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W), or (in, H, W), -> (N, out, H', W')."""
        x = input if input.dim() == 4 else input.unsqueeze(0)
        before, after = self._margins()
        x = pad(x, before, self.padding_mode)
        single = self.weight.shape[1] == 1  # a depthwise output reads one input, so its activations are one map
        if self.bias_sharing == "input":
            y = self._activated(x, self.dendrite_bias, after, self.groups)
        elif single and self.bias_sharing == "pair":
            each = x if self.out_channels == self.groups else x.repeat_interleave(self.out_channels // self.groups, 1)
            y = self._activated(each, self.dendrite_bias[:, 0], after, self.out_channels)
        else:
            y = dendritic_conv2d(
                x, self.weight, self.dendrite_bias, self.bias, self.stride, after, self.dilation, self.groups
            )
        return y if input.dim() == 4 else y.squeeze(0)

    def _activated(self, x: Tensor, biases: Tensor, zeros: tuple[int, ...], groups: int) -> Tensor:
        """One bias per channel of x: an ordinary activation, then an ordinary convolution."""
        h = (x + biases[:, None, None]).relu_()
        left, right, top, bottom = zeros
        if left != right or top != bottom:  # an even kernel with padding="same"
            h, top, left = F.pad(h, zeros), 0, 0
        return F.conv2d(h, self.weight, self.bias, self.stride, (top, left), self.dilation, groups)

    def _margins(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The padding of x, and the zeros after the activation: (left, right, top, bottom) each."""
        none, own = (0, 0, 0, 0), margins(self.kernel_size, self.dilation, self.padding)
        return (none, own) if self.padding_mode == "zeros" and self.pad == "after" else (own, none)

    def fuse(self, levels: int | None = None) -> nn.Module:
        """The inference form.

        Without `levels` it equals the unit exactly. If an input channel can have only one bias
        (`bias_sharing="input"`, or depthwise), it is a `LevelConv2d` of one level (`conv(relu(x + b))`); otherwise it
        is an independent copy. The form does not depend on the values of the biases, so a saved model finds the same
        form again. Either form can absorb a BatchNorm behind it (`fold_affine`).

        Args:
            levels: the largest number T of different biases per input channel. The result is a `LevelConv2d`, an
                ordinary convolution over T * in maps (T times the multiplications, at a plain convolution's speed). It
                is exact where the biases of each input channel take at most T values; its `bias_error` is the largest
                change of a bias.

        Raises:
            ValueError: levels is not a whole number of at least 1.
        """
        if levels is not None:
            check_whole("levels", levels, hint=", or None")
        if self.bias_sharing == "input":
            return self._levelled(self.dendrite_bias[:, None].detach(), 1)
        values = biases_by_input(self.dendrite_bias.detach(), self.groups)
        if levels is None:
            if values.shape[1] > 1:
                return copy.deepcopy(self)
            levels = 1
        return self._levelled(values, levels)

    def _levelled(self, values: Tensor, count: int) -> LevelConv2d:
        before, _ = self._margins()
        zeros = self.padding_mode == "zeros"
        geometry = Geometry.of(self)
        own = geometry.arguments() | ({"padding": (0, 0)} if zeros and any(before) else {})
        return level_form(
            Geometry(**own),
            self.weight,
            values,
            self.dendrite_bias.dim() == 4,
            self.bias,
            count,
            before if zeros else (0, 0, 0, 0),
            self.training,
        )

    @torch.no_grad()
    def fold_affine(self, scale: Tensor, shift: Tensor) -> None:
        """Absorb a following per-channel `y -> scale y + shift` in place: the unit is linear in its weights."""
        fold_affine(self, scale, shift)


class DendriticLinear(nn.Module):
    """A dendritic linear layer: `out[n, i] = sum_j W[i, j] relu(x[n, j] + B[i, j]) + b[i]`.

    x is (..., in), W (out, in). Like `DendriticConv2d` it never holds the (N, out, in) activations. 2 in out
    parameters; the paper has no output bias b.

    Args:
        in_features, out_features: sizes of x and of the result.
        bias: whether there is an output bias b.
        bias_sharing: `"pair"`: B is (out, in), one bias per connection; `"input"`: (in,), a linear layer after an
            ordinary activation.
        bias_init: B starts uniform in plus or minus this number; 0 starts all at 0.

    Raises:
        ValueError: an option is not allowed, or x does not end in `in_features`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        bias_sharing: str = "pair",
        bias_init: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_choice("bias_sharing", bias_sharing, ("pair", "input"))
        _check_bias_init(bias_init)
        super().__init__()
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_features, self.out_features = in_features, out_features
        self.bias_sharing, self.bias_init = bias_sharing, bias_init
        shape = (out_features, in_features)
        self.weight = nn.Parameter(torch.empty(shape, **place))
        self.dendrite_bias = nn.Parameter(torch.empty(shape if bias_sharing == "pair" else shape[1:], **place))
        self.bias = nn.Parameter(torch.empty(out_features, **place)) if bias else None
        self.reset_parameters()
        register_flops()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        register_flops()

    def reset_parameters(self) -> None:
        """Weight and output bias as in `nn.Linear`, the dendrites' biases by `bias_init`."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            nn.init.uniform_(self.bias, -bound, bound)
        nn.init.uniform_(self.dendrite_bias, -self.bias_init, self.bias_init)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if input.shape[-1] != self.in_features:
            raise UsageError(
                f"input of shape {tuple(input.shape)} is not allowed; give a last dimension of {self.in_features}"
            )
        if self.bias_sharing == "input":
            return F.linear((input + self.dendrite_bias).relu_(), self.weight, self.bias)
        # The rows of x are the pixels of one image under a 1x1 convolution.
        pixels = input.reshape(-1, self.in_features).t()[None, :, None]
        y = dendritic_conv2d(pixels, self.weight[:, :, None, None], self.dendrite_bias, self.bias)
        return y[0, :, 0].t().reshape(*input.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """The sizes, as `nn.Linear` prints them, and the options."""
        text = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{text}, bias_sharing={self.bias_sharing!r}"


@torch.no_grad()
def rectified_correlation(conv: nn.Conv2d) -> float:
    """The correlation of `conv(relu(x))` and `conv(x)` for independent standard normal x, away from the border.

    With S the mean over outputs of the squared weights' sum, relu(x) has mean m = 1/sqrt(2 pi), covariance 1/2 with x
    and variance 1/2 - m²; the channels' means b and b + m sum(W) vary too.
    """
    weight = conv.weight.double().flatten(1)
    power = float(weight.square().sum(1).mean())
    mean = 1 / math.sqrt(2 * math.pi)
    plain = torch.zeros_like(weight[:, 0]) if conv.bias is None else conv.bias.double()
    ours = plain + mean * weight.sum(1)
    plain, ours = plain - plain.mean(), ours - ours.mean()
    both = 0.5 * power + float((plain * ours).mean())
    spread = (power + float(plain.square().mean())) * ((0.5 - mean**2) * power + float(ours.square().mean()))
    return both / math.sqrt(spread) if spread > 0 else 0.0


def _check_bias_init(value: object) -> None:
    check_number("bias_init", value, lambda bound: bound >= 0, "a number of at least 0")
