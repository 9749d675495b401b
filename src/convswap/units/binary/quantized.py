"""Quantised convolution: k-bit weights and activations in training and inference (arXiv:1609.07061, 1602.02830)."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ...errors import check_choice
from ...marks import Marked
from ...ops.binary_conv import PackedBinaryConv2d
from ..contract.feature import FeatureUnit
from ..contract.geometry import Geometry, plain_conv
from ..contract.precision import compute_dtype
from ..contract.registry import register_unit
from ..contract.weight import WeightUnit
from ..support.draws import Draws, mix
from ..support.padding import convolve
from .quantizers import FULL, SCHEMES, check_bits, check_dropout, nearest_power_of_two, quantize_gradient, quantize_ste

ROUNDINGS = ("nearest", "stochastic")
RATES = ("plain", "glorot", "glorot_power_of_two")
_WEIGHT_DRAW = 0x2545F491  # makes the weight's draws differ from the activations'


@register_unit(
    "quantized",
    paper="arXiv:1609.07061",
    year=2016,
    summary="weights and activations of 1 to 16 bits, gradients straight through (BinaryNet with 1 bit)",
    warm_start="none",
    fusion="cheaper",
    gradient="straight_through",
    default_where="all & !first",
    variants=(
        {"weight_bits": 1, "activation_bits": FULL},
        {"weight_bits": 8, "activation_bits": 8, "gradient_bits": 6},
        {"weight_bits": 4, "activation_bits": 4, "activation_range": "unsigned", "estimator": "identity"},
        {"weight_bits": 4, "activation_bits": 4, "scheme": "log"},
        {"weight_bits": 12, "activation_bits": 1, "weight_range": "unit"},
        {"weight_bits": FULL, "activation_bits": FULL},
    ),
)
class QuantizedConv2d(Draws, WeightUnit):
    """A convolution of quantised inputs with quantised weights: `y = conv(q_a(x), s q_w(W / s)) + b`.

    With 1 bit both q are the sign (+1 from 0 on) and s = 1: BinaryNet. With k bits q gives the levels of
    `convswap.units.binary.quantizers.quantize`. They are linear, `clip(round(x n)/n, -1, 1 - 1/n)` with n = 2^(k-1), or
    logarithmic (powers of two). s is max |W| over the tensor, or 1. With 32 bits nothing is quantised.

    The gradient goes straight through: to x where |x| <= 1 (the derivative of the HardTanh that the sign replaces), to
    the latent weight W unchanged. W stays in [-1, 1]: `constrain_()`, which every training of convswap calls after each
    step. Zero padding pads the quantised map: nothing is added outside the image.

    The unit clips its input itself. A swap therefore removes a ReLU that feeds only such units, because the sign of a
    rectified map is +1 everywhere. If a ReLU must stay (before a residual sum), use `activation_range="unsigned"`.
    BinaryNet makes every layer binary, even the last, but not the image: the first layer has `activation_bits=32`. By
    default the first convolution is left unchanged; a second call can swap it.

    Args:
        weight_bits: 1 to 16, or 32 for real weights.
        activation_bits: the same for the input.
        gradient_bits: 2 to 16, or 32: logarithmic levels for the gradient of the output (the paper's 6 bits).
        scheme: `"linear"` or `"log"` levels, of weights and activations; one signed bit is the sign in both.
        activation_range: `"signed"`, [-1, 1], or `"unsigned"`, [0, 1].
        weight_range: s, `"max"` (max |W|; with `"log"` the nearest power of two) or `"unit"` (1, the paper's).
        weight_rounding: `"nearest"`, or `"stochastic"` while training.
        activation_rounding: the same for the input.
        estimator: `"clipped"`, or `"identity"`: the gradient of x is passed on everywhere.
        learning_rate: of W in convswap's recipes: `"plain"`, or `"glorot"`: times sqrt((fan_in + fan_out) / 1.5), as
            BinaryNet has it for latent weights that are drawn from all of [-1, 1]; `"glorot_power_of_two"` rounds that.
        dropout: probability to drop a quantised input while training (before the sign it would do nothing).

    The other arguments are those of `nn.Conv2d`.

    Raises:
        ValueError: an option is not allowed.
    """

    absorbs_relu_before = True

    def setup(
        self,
        *,
        weight_bits: int = 1,
        activation_bits: int = 1,
        gradient_bits: int = FULL,
        scheme: str = "linear",
        activation_range: str = "signed",
        weight_range: str = "max",
        weight_rounding: str = "nearest",
        activation_rounding: str = "nearest",
        estimator: str = "clipped",
        learning_rate: str = "plain",
        dropout: float = 0.0,
    ) -> None:
        """Check the options and build the unit; see the class."""
        check_bits("weight_bits", weight_bits)
        check_bits("activation_bits", activation_bits)
        check_bits("gradient_bits", gradient_bits, least=2)
        check_choice("scheme", scheme, SCHEMES)
        check_choice("activation_range", activation_range, ("signed", "unsigned"))
        check_choice("weight_range", weight_range, ("max", "unit"))
        check_choice("weight_rounding", weight_rounding, ROUNDINGS)
        check_choice("activation_rounding", activation_rounding, ROUNDINGS)
        check_choice("estimator", estimator, ("clipped", "identity"))
        check_choice("learning_rate", learning_rate, RATES)
        check_dropout(dropout)
        self.weight_bits, self.activation_bits, self.gradient_bits = weight_bits, activation_bits, gradient_bits
        self.scheme, self.activation_range, self.weight_range = scheme, activation_range, weight_range
        self.weight_rounding, self.activation_rounding = weight_rounding, activation_rounding
        self.estimator, self.learning_rate, self.dropout = estimator, learning_rate, dropout
        if "stochastic" in (weight_rounding, activation_rounding):
            self.register_draws(self.weight.device)

    @classmethod
    def warm_start_for(cls, conv: nn.Conv2d, **options: Any) -> Literal["exact", "approximate", "none"]:
        """Exact for 32 bits throughout; approximate, within the range, for signed inputs and 2 bits or more."""
        bits = options.get("weight_bits", 1), options.get("activation_bits", 1)
        if bits == (FULL, FULL):
            return "exact"
        signed = options.get("activation_range", "signed") == "signed"
        ranged = options.get("weight_range", "max") == "max" or bits[0] == FULL
        return "approximate" if min(bits) > 1 and signed and ranged else "none"

    def reset_parameters(self) -> None:
        """Draw the weight and bias as `nn.Conv2d` does, and a new seed."""
        super().reset_parameters()
        self.reset_draws()

    def effective_weight(self) -> Tensor:
        """`s q_w(W / s)`: (out_channels, in_channels/groups, kH, kW). While training with random rounding, a draw."""
        return self._weight(self.draw_key() if self.training and self.weight_rounding == "stochastic" else None)

    def _weight(self, key: Tensor | None) -> Tensor:
        return quantized_weight(self.weight, self.weight_bits, self.scheme, self.weight_range, key)

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W), or (in, H, W), -> (N, out, H', W')."""
        key = self.draw_key() if self.training and "draw_state" in self._buffers else None
        x = quantize_ste(
            input,
            self.activation_bits,
            self.scheme,
            signed=self.activation_range == "signed",
            key=key if self.activation_rounding == "stochastic" else None,
            clipped=self.estimator == "clipped",
        )
        if self.dropout:
            x = nn.functional.dropout(x, self.dropout, self.training)
        weight_key = mix(key ^ _WEIGHT_DRAW) if key is not None and self.weight_rounding == "stochastic" else None
        weight = self._weight(weight_key).to(self.weight.dtype)
        return quantize_gradient(self._conv_forward(x, weight, self.bias), self.gradient_bits)

    @torch.no_grad()
    def constrain_(self) -> None:
        """Clip the latent weights to [-1, 1], where weights are quantised; see `convswap.train.constrain`."""
        if self.weight_bits != FULL:
            self.weight.clamp_(-1, 1)

    def learning_rate_scale(self) -> dict[str, float]:
        """The factor of the latent weights' learning rate; see `convswap.train.parameter_groups`."""
        if self.learning_rate == "plain" or self.weight_bits == FULL:
            return {}
        area = self.kernel_size[0] * self.kernel_size[1]
        factor = math.sqrt((self.in_channels + self.out_channels) * area / 1.5)
        return {"weight": factor if self.learning_rate == "glorot" else 2.0 ** round(math.log2(factor))}

    def fuse(self) -> nn.Module:  # type: ignore[override]  # more than one convolution
        """The inference form. Rounding is to the nearest, as in evaluation.

        One signed bit for weights and inputs gives a `PackedBinaryConv2d`, one bit a weight. One bit for weights on
        real inputs, a first layer, gives a `FusedSigns`. Anything else gives a plain `nn.Conv2d` of the quantised
        weight, preceded by the quantiser of its input if the input is quantised.
        """
        if self.weight_bits == self.activation_bits == 1 and self.activation_range == "signed":
            return self._packed()
        with torch.no_grad():
            weight = self._weight(None)
            conv = plain_conv(Geometry.of(self), weight, self.bias, like=self.weight, train=self.training)
        if self.activation_bits == FULL:
            return FusedSigns.around(conv) if self.weight_bits == 1 else conv
        signed = self.activation_range == "signed"
        return FusedQuantized(self.activation_bits, self.scheme, signed, conv).train(self.training)

    def _packed(self) -> PackedBinaryConv2d:
        packed = PackedBinaryConv2d.from_weight(
            self.weight,
            None,
            self.bias,
            stride=self.stride,  # type: ignore[arg-type]
            padding=self.padding,  # type: ignore[arg-type]
            dilation=self.dilation,  # type: ignore[arg-type]
            groups=self.groups,
            padding_mode=self.padding_mode,
        )
        return packed.train(self.training)


@register_unit(
    "quantized_stochastic",
    paper="arXiv:1602.02830",
    year=2016,
    summary="signs drawn with the probability of a hard sigmoid while training, deterministic in evaluation",
    warm_start="none",
    fusion="cheaper",
    gradient="straight_through",
    default_where="all & !first",
    train_eval="stochastic",
    variants=(
        {"weight_rounding": "stochastic", "activation_rounding": "nearest"},
        {"weight_rounding": "stochastic", "weight_bits": 4, "activation_bits": 4, "scheme": "log"},
    ),
)
class StochasticQuantizedConv2d(QuantizedConv2d):
    """`QuantizedConv2d` whose inputs are rounded at random while training, as BinaryNet's Torch7 code does by default.

    One bit is +1 with probability `clip((x + 1)/2, 0, 1)`. More bits round up with the probability of the part cut off.
    Evaluation and `fuse()` round to the nearest. The draws are those of `convswap.units.support.draws`: a resumed run
    repeats them.

    The arguments are those of `QuantizedConv2d`, of which `activation_rounding` is `"stochastic"` by default.
    """

    def setup(self, *, activation_rounding: str = "stochastic", **options: Any) -> None:
        """Check the options and build the unit; see the class."""
        super().setup(activation_rounding=activation_rounding, **options)


class FusedSigns(FeatureUnit):
    """The inference form of `QuantizedConv2d` with binary weights on real inputs: a convolution with +-1.

    A BatchNorm behind it is not folded into its weights, so they stay +-1. Folding would also round differently and
    turn the signs of numbers near 0 behind that BatchNorm. One turned sign in 65,536 is enough to change the logits of
    an untrained network, in which every later layer reads only signs.

    Attributes:
        weight: (out, in/groups, kH, kW) of +-1.
        bias: (out,) or None.
    """

    def setup(self) -> None:
        """Allocate weight and bias; `around` fills them."""
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, **self.place))
        self.bias = nn.Parameter(torch.empty(shape[:1], **self.place)) if self.geometry.bias else None
        self.layer = self.geometry

    @classmethod
    def around(cls, conv: nn.Conv2d) -> FusedSigns:
        """The form that convolves with this convolution's weight and bias, which it shares."""
        fused = cls(**Geometry.of(conv).arguments(), device="meta")
        fused.weight, fused.bias = cast(Any, conv.weight), cast(Any, conv.bias)
        return fused.train(conv.training)

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W), or (in, H, W), -> (N, out, H', W')."""
        return convolve(self.layer, input, self.weight, self.bias)


class FusedQuantized(Marked, nn.Module):
    """The inference form of `QuantizedConv2d`: the quantiser of the input, then a plain convolution.

    Attributes:
        conv: `nn.Conv2d` of the quantised weight.
    """

    marked_settings = ("bits", "scheme", "signed")

    def __init__(self, bits: int, scheme: str, signed: bool, conv: nn.Conv2d) -> None:
        super().__init__()
        self.bits, self.scheme, self.signed = bits, scheme, signed
        self.conv = conv

    @property
    def weight(self) -> Tensor:
        """The convolution's weight."""
        return self.conv.weight

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W), or (in, H, W), -> (N, out, H', W')."""
        return self.conv(quantize_ste(input, self.bits, self.scheme, signed=self.signed))

    def extra_repr(self) -> str:
        """The quantiser of the input."""
        return f"bits={self.bits}, scheme={self.scheme!r}, signed={self.signed}"


def quantized_weight(latent: Tensor, bits: int, scheme: str, weight_range: str, key: Tensor | None = None) -> Tensor:
    """`s q(W / s)` in at least float32, the gradient straight through; s is 1 for one bit and for the range "unit"."""
    weight = latent.to(compute_dtype(latent.dtype))
    if bits in (1, FULL) or weight_range == "unit":
        return quantize_ste(weight, bits, scheme, key=key, clipped=False)
    scale = _weight_scale(weight.detach(), scheme)
    return quantize_ste(weight / scale, bits, scheme, key=key, clipped=False) * scale


def _weight_scale(weight: Tensor, scheme: str) -> Tensor:
    """The range s of a weight tensor: max |W|, for logarithmic levels as the nearest power of two; 1 for all zeros."""
    scale = weight.abs().flatten().amax(0)  # with a dimension: ONNX has no amax over all
    if scheme == "log":
        scale = nearest_power_of_two(scale)
    return torch.where(scale > 0, scale, torch.ones_like(scale))
