"""The inter-layer collision (IC) neuron as a convolution, and its inference form (arXiv:1911.08252)."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError, check_choice, is_number
from ...hooks import Hooks
from ..contract.feature import FeatureUnit
from ..contract.geometry import Geometry
from ..contract.precision import compute_dtype, double_copy
from ..contract.registry import register_unit
from ..support.folding import batch_norm_affine
from .group_sum import GroupSum, add_scaled_sum

_RANGE = 8.0  # a fused slope above this would cost digits, so the other side of the kink is scaled to 1


@register_unit(
    "ic",
    paper="arXiv:1911.08252",
    year=2019,
    summary="adds the rectified response of a second form, tied to the first by one scalar per channel",
    warm_start="exact",
    fusion="cheaper",
    variants=({"w_init": "zero"}, {"reduce": "mean"}, {"inner_bias": False}, {"w_init": 0.02}),
    no_weight_decay=("w_prime", "b1", "gate_scale"),
)
class ICConv2d(FeatureUnit):
    """The IC neuron: `y = z + relu(z - w' s + b1) + b2`, with `z = conv(x, W)` and s the sum of the inputs of z.

    W is (out, in/groups, kH, kW); w', b1 and b2 are (out,). s sums a group's channels and then applies a box
    filter of the kernel's size with the same stride, padding and dilation: one map per group, (N, groups, H', W').
    The rectifier acts on the whole sum. Since `z - w' s = conv(x, W - w')`, the layer computes
    `leaky_relu(2 conv(x, W - w') + 2 b1, 0.5) + w' s + b2 - b1`: one convolution and two elementwise passes.

    From the papers we know the abstracts and the neuron's formula. We **inferred** the convolutional layout, the
    placement (spatial convolutions except the stem, followed by the host's BatchNorm and ReLU), the initialisation
    and that w' and b1 are not weight decayed. There is no official code.

    Starting from a trained convolution (`from_conv`) uses `gate="closed"`, ours: `y = z + g relu(..) + b2` with g
    one scalar per channel that starts at 0. The layer then is the convolution exactly. g has a gradient at
    once, w' and b1 from the second step on. `gate="open"` gives the paper's neuron, g = 1 without a parameter.
    It is the default of the constructor and of `fresh_like`.

    `fuse()` gives a `FusedIC`. The layer is piecewise linear, so no single convolution equals it, but the
    constants and a following BatchNorm fold into it. Pruning an input channel changes s for every output.

    Args:
        w_init: the start of w': `"mean"`, the mean of the filter's own weights, so that the gate is a zero-mean
            filter; `"zero"`; `"one"`, the papers' constant first version, a dead gate in any wide layer (a
            warning says so); or a number.
        inner_norm: a BatchNorm in the gate, `relu(BN(z - w' s))`; its shift takes the place of b1. Training then
            computes with batch statistics.
        inner_bias: whether there is a b1, starting at 0.
        reduce: `"sum"`, or `"mean"`: s divided by the fan-in and w' multiplied by it. The function at the start is
            the same, but the gradient of w' is then not fan-in times a weight's.
        gate: `"open"` or `"closed"`, see above.

    The other arguments are those of `nn.Conv2d`.

    Raises:
        ValueError: an option is not allowed.
    """

    def setup(
        self,
        *,
        w_init: float | str = "mean",
        inner_norm: bool = False,
        inner_bias: bool = True,
        reduce: str = "sum",
        gate: str = "open",
    ) -> None:
        """Check the options and build the unit; see the class."""
        _check_w_init(w_init)
        check_choice("inner_norm", inner_norm, (True, False))
        check_choice("inner_bias", inner_bias, (True, False))
        check_choice("reduce", reduce, ("sum", "mean"))
        check_choice("gate", gate, ("open", "closed"))
        place = self.place
        self.w_init, self.reduce, self.gate = w_init, reduce, gate
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        self.fan_in = math.prod(shape[1:])
        self.weight = nn.Parameter(torch.empty(shape, **place))
        self.bias = nn.Parameter(torch.empty(self.out_channels, **place)) if self.geometry.bias else None
        self.w_prime = nn.Parameter(torch.empty(self.out_channels, **place))
        own_shift = inner_bias and not inner_norm
        self.b1 = nn.Parameter(torch.empty(self.out_channels, **place)) if own_shift else None
        self.gate_scale = nn.Parameter(torch.empty(self.out_channels, **place)) if gate == "closed" else None
        self.gate_bn = nn.BatchNorm2d(self.out_channels, **place) if inner_norm else None
        self.group_sum = GroupSum(Geometry.of(self))
        self.reset_parameters()

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, **options: Any) -> Self:
        """Start from a convolution's function, with the gate closed unless `gate="open"` is asked for."""
        return super().from_conv(conv, **({"gate": "closed"} | options))

    @classmethod
    def warm_start_for(cls, conv: nn.Conv2d, **options: Any) -> Literal["exact", "approximate", "none"]:
        """`"exact"` with the gate closed (the default of `from_conv`); an open gate adds its part at once."""
        return "approximate" if options.get("gate") == "open" else "exact"

    def reset_parameters(self) -> None:
        """Weight and bias as in `nn.Conv2d`, w' by `w_init`, b1 and a closed gate's scale at 0."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.fan_in)
            nn.init.uniform_(self.bias, -bound, bound)
        for zero in (self.b1, self.gate_scale):
            if zero is not None:
                nn.init.zeros_(zero)
        if self.gate_bn is not None:
            self.gate_bn.reset_parameters()
        with torch.no_grad():
            self.reset_w_prime()

    def reset_w_prime(self) -> None:
        """Reset w' as `w_init` says, from the present weight (run under `no_grad`)."""
        if self.w_init == "mean":
            start = self.weight.to(compute_dtype(self.weight.dtype)).mean((1, 2, 3))
        else:
            value = {"zero": 0.0, "one": 1.0}.get(str(self.w_init), self.w_init)
            start = torch.full_like(self.w_prime, float(value))
        self.w_prime.copy_(start * self.fan_in if self.reduce == "mean" else start)

    def copy_initial(self, conv: nn.Conv2d) -> None:
        """Copy the host's weight and bias; w' starts from that weight."""
        super().copy_initial(conv)
        self.reset_w_prime()

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W), or (in, H, W), -> (N, out, H', W')."""
        x = input if input.dim() == 4 else input.unsqueeze(0)
        total = self.group_sum(x)
        if self.reduce == "mean":
            total = total / self.fan_in
        # A convolution in 8 bits of mantissa cannot hold z - w' s if w' s is far larger than z.
        exact = self.w_init in ("mean", "zero") or not _is_low(x)
        simple = self.gate_scale is None and self.gate_bn is None
        y = self._tied(x, total) if simple and exact else self._direct(x, total)
        return y if input.dim() == 4 else y.squeeze(0)

    def _tied(self, x: Tensor, total: Tensor) -> Tensor:
        """`leaky_relu(2 conv(x, W - w') + 2 b1, 0.5) + w' s + b2 - b1`."""
        dtype = compute_dtype(self.weight.dtype)
        gate = self._convolve(x, 2 * self._gate_weight(), None if self.b1 is None else 2 * self.b1)
        shift = _difference(self.bias, self.b1)
        return add_scaled_sum(F.leaky_relu_(gate, 0.5), total, self.w_prime.to(dtype), shift, own=True)

    def _direct(self, x: Tensor, total: Tensor) -> Tensor:
        """`z + g relu(z - w' s + b1) + b2` as written."""
        z = self._convolve(x, self.weight, None)
        u = add_scaled_sum(z, total, -self.w_prime.to(compute_dtype(self.weight.dtype)), self.b1)
        if self.gate_bn is not None:
            u = self.gate_bn(u)
        u = u.relu().to(z.dtype)
        if self.bias is not None:
            z = z + self.bias.to(z.dtype)[:, None, None]
        return z + u if self.gate_scale is None else torch.addcmul(z, u, self.gate_scale.to(z.dtype)[:, None, None])

    def _gate_weight(self) -> Tensor:
        """`W - w'`, in at least float32."""
        dtype = compute_dtype(self.weight.dtype)
        w_prime = self.w_prime.to(dtype)
        if self.reduce == "mean":
            w_prime = w_prime / self.fan_in
        return self.weight.to(dtype) - w_prime[:, None, None, None]

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self.group_sum.convolve(x, weight.to(self.weight.dtype), bias)

    def fuse(self) -> FusedIC:
        """The inference form, constants formed in float64; equal in evaluation.

        Raises:
            FusionError: the inner BatchNorm keeps no running statistics.
        """
        with torch.no_grad():
            exact = double_copy(self)
            zero = torch.zeros_like(exact.w_prime)
            scale, kink = torch.ones_like(zero), zero if exact.b1 is None else exact.b1
            shift = zero if exact.bias is None else exact.bias
            if exact.gate_bn is not None:
                scale, kink = batch_norm_affine(exact.gate_bn)
                # scale 0 means a constant gate: no kink, the rectified constant joins the shift
                constant = kink.relu() if exact.gate_scale is None else kink.relu() * exact.gate_scale
                shift = torch.where(scale == 0, shift + constant, shift)
                kink = torch.where(scale == 0, 0.0, kink / torch.where(scale == 0, 1.0, scale))
            side = 1 + (scale if exact.gate_scale is None else scale * exact.gate_scale)
            w_prime = exact.w_prime / self.fan_in if self.reduce == "mean" else exact.w_prime
            fused = FusedIC(Geometry.of(self), exact._gate_weight(), kink, w_prime, shift - kink)
            # relu(scale q): the side where scale q > 0 has slope 1 + scale, the other slope 1
            fused.set_slopes(torch.where(scale >= 0, side, 1.0), torch.where(scale >= 0, 1.0, side))
            return fused.to(self.weight.device, self.weight.dtype).train(self.training)


class FusedIC(Hooks, nn.Module):
    """The inference form of `ICConv2d`: `y = o prelu(conv(x, V) + c, m) + v s + d`, all constants per channel.

    V is (out, in/groups, kH, kW); c, the slopes m, v, d and the signs o are (out,), s is the group sum. It is built by
    `ICConv2d.fuse()`, and `fold_affine` absorbs the BatchNorm that follows. If all slopes are 0.5 (an open gate, no
    negative BatchNorm scale) the rectifier is a plain leaky ReLU. If all signs are 1 they are skipped.
    """

    def __init__(self, geometry: Geometry, weight: Tensor, bias: Tensor, sum_weight: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.in_channels, self.out_channels = geometry.in_channels, geometry.out_channels
        self.kernel_size, self.stride, self.padding = geometry.kernel_size, geometry.stride, geometry.padding
        self.dilation, self.groups, self.padding_mode = geometry.dilation, geometry.groups, geometry.padding_mode
        self.group_sum = GroupSum(geometry)
        self.weight = nn.Parameter(weight.clone())
        self.bias = nn.Parameter(bias.clone())
        self.added = nn.Parameter(torch.stack([sum_weight, shift]))  # v and d
        self.slope = nn.Parameter(torch.ones_like(bias))
        self.sign = nn.Parameter(torch.ones_like(bias))
        self.requires_grad_(False)  # an inference form: the unit itself is what trains
        self.leaky = False
        self.signed = False

    @torch.no_grad()
    def set_slopes(self, on: Tensor, off: Tensor) -> None:
        """Set the slopes of the two sides of the kink, by rescaling the convolution so that one slope is 1.

        Args:
            on: the factor (out,) where the convolution's output is positive.
            off: the factor (out,) where it is negative.
        """
        tiny = torch.finfo(on.dtype).tiny
        positive = (on > 0) & (on * _RANGE >= off.abs())  # p = on q
        negative = ~positive & (off < 0)  # p = off q, the sides change places
        other = ~positive & ~negative  # minus a rectifier of p = -off q, or of p = -on q where that is larger
        trade = negative | (other & (off >= -on))
        one, rest = torch.where(trade, off, on), torch.where(trade, on, off)
        scale = torch.where(other, -one, one)
        self.slope.copy_(torch.where(one.abs() > tiny, rest / torch.where(one.abs() > tiny, one, 1.0), 0.0))
        self.sign.copy_(torch.where(other, -1.0, 1.0))
        self.weight.mul_(scale[:, None, None, None])
        self.bias.mul_(scale)
        self._note()

    @torch.no_grad()
    def fold_affine(self, scale: Tensor, shift: Tensor) -> None:
        """Absorb a following per-channel `y -> scale y + shift` in place, even if the scale is negative or 0."""
        scale = scale.to(self.bias)
        self.added.mul_(scale)
        self.added[1].add_(shift.to(self.added))
        self.set_slopes(scale * self.sign, scale * self.sign * self.slope)

    def _note(self) -> None:
        meta = self.slope.is_meta
        self.leaky = not meta and bool((self.slope == 0.5).all())
        self.signed = meta or not bool((self.sign == 1).all())

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._note()

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W), or (in, H, W), -> (N, out, H', W')."""
        x = input if input.dim() == 4 else input.unsqueeze(0)
        y = self.group_sum.convolve(x, self.weight, self.bias)
        y = F.leaky_relu_(y, 0.5) if self.leaky else F.prelu(y, self.slope.to(y.dtype))
        if self.signed:
            y = y * self.sign.to(y.dtype)[:, None, None]
        y = self.group_sum.add_to(y, x, self.added)
        return y if input.dim() == 4 else y.squeeze(0)

    def extra_repr(self) -> str:
        """The geometry in one line."""
        return Geometry.of(self).describe()


def _check_w_init(value: object) -> None:
    if value == "one":
        warnings.warn(
            "w_init='one' is the papers' first formula, but the sum of a wide layer's inputs dwarfs its response: "
            "the gate stays shut and w' gets no gradient; 'mean' starts with half of the gates open",
            UserWarning,
            stacklevel=3,
        )
        return
    if not is_number(value) and value not in ("mean", "zero"):
        raise UsageError(f"w_init={value!r} is not allowed; choose one of 'mean', 'zero', 'one' or a number")


def _difference(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if second is None:
        return first
    return -second if first is None else first - second


def _is_low(x: Tensor) -> bool:
    device = x.device.type
    autocast = device != "meta" and torch.is_autocast_enabled(device)
    return autocast or x.dtype in (torch.float16, torch.bfloat16)
