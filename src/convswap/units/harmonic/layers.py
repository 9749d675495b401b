"""The layers of harmonic networks (arXiv:1612.04642): maps are complex and sorted into streams of rotation order.

A complex map of orders 0..M with C channels each is an ordinary tensor (N, 2 C (M + 1), H, W) whose channel index is
(order, re | im, channel). Turning the image by an angle t turns the map and multiplies stream m by `e^{i m t}`. Every
layer here keeps that property: exactly for quarter turns of square maps, approximately (pixels, borders) for others.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import check_choice, check_whole
from ..contract.precision import compute_dtype
from ..contract.weight import WeightUnit
from ..support.folding import batch_norm_affine
from . import basis as harmonic_basis

LEAST_SQUARE = 1e-4  # of a magnitude: |Z| = sqrt(max(re^2 + im^2, 1e-4))


class HarmonicConv2d(WeightUnit):
    """Cross-order convolution: `Y_o = sum_i F_{o-i} * X_i`, `F_{-m} = conj(F_m)`, as one plain convolution.

    `F_m = e^{-i beta} sum_r R[r] B_m[r]` with a profile R and a phase beta for every order and pair of channels
    (`weight`, (orders, out, in, rings), and `phase`, (orders, out, in)) and the bases of `harmonic_basis`. The filters
    are formed once per forward and laid out as one real kernel: (N, 2 C (M_in + 1), H, W), or real maps (N, C, H, W)
    if the input is not complex, -> (N, 2 C' (M + 1), H', W'). There is no bias, which would break equivariance.
    `fuse()` gives the plain `nn.Conv2d`.

    The paper's formula is a complex product for all orders. The official code multiplies the imaginary part by
    sign(o - i), which is 0 for equal orders, so only `cos(beta)` of an order-0 filter acts on a complex input.
    Both are equivariant.

    Args:
        in_channels: C, channels of every input order (of the map, where the input is real).
        out_channels: C', channels of every output order.
        kernel_size: k.
        padding: zeros on every side, or `"same"`, `"valid"`.
        max_order: M, the highest output order.
        max_order_in: the highest input order; None: a real input.
        rings: of the profile; None: `max(k // 2, 2)`. Rings may lie partly outside of the kernel.
        phase: whether there are phases (else beta = 0).
        zero_order_phase: `"paper"` or `"code"`, see above.
        dead_weights: also keep the official code's profiles and phases of negative orders, which nothing reads:
            `weight` then has the orders -h, .., -1, 0, .., h with h = max(M, M_in).
        basis: `"unit"` scales every ring basis to unit norm (ours), which keeps parameters and learning rates at the
            usual size; `"sum"`: the official bases, a sum over 101 angles.

    Raises:
        ValueError: an option is not allowed.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 5,
        padding: int | str = "same",
        *,
        max_order: int = 1,
        max_order_in: int | None = 1,
        rings: int | None = None,
        phase: bool = True,
        zero_order_phase: str = "paper",
        dead_weights: bool = False,
        basis: str = "unit",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            check_whole(name, value)
        check_whole("kernel_size", kernel_size, 2)
        check_whole("max_order", max_order, 0)
        for name, flag in (("phase", phase), ("dead_weights", dead_weights)):
            check_choice(name, flag, (True, False))
        check_choice("zero_order_phase", zero_order_phase, ("paper", "code"))
        check_choice("basis", basis, ("unit", "sum"))
        real = max_order_in is None
        orders_in = 1 if max_order_in is None else check_whole("max_order_in", max_order_in, 0) + 1
        flat_in = in_channels if real else 2 * orders_in * in_channels
        flat_out = 2 * (max_order + 1) * out_channels
        super().__init__(flat_in, flat_out, kernel_size, padding=padding, bias=False, device="meta")
        self.streams = (in_channels, out_channels)
        self.max_order, self.max_order_in = max_order, max_order_in
        self.rings = harmonic_basis.default_rings(kernel_size) if rings is None else check_whole("rings", rings)
        self.zero_order_phase, self.basis = zero_order_phase, basis
        self.highest = max(max_order, orders_in - 1)
        self.dead = self.highest if dead_weights else 0
        shape = (self.dead + self.highest + 1, out_channels, in_channels)
        self.weight = nn.Parameter(torch.empty(*shape, self.rings, device=device, dtype=dtype))
        self.phase = nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) if phase else None
        self.reset_parameters()
        self.register_constants()

    def reset_parameters(self) -> None:
        """Profiles normal, phases uniform in (0, 2 pi).

        The deviation of the profiles is `0.4 sqrt(2 / (rings in out))` with the official bases. With bases of unit
        norm it is `sqrt(1 / (rings in (M_in + 1)))`, which maps white noise to magnitudes of about its own size.
        """
        if "phase" not in self._parameters and "phase" not in self.__dict__:
            return  # called by nn.Conv2d's constructor, before there are parameters
        incoming, outgoing = self.streams
        orders_in = 1 if self.max_order_in is None else self.max_order_in + 1
        std = math.sqrt(1 / (self.rings * incoming * orders_in))
        if self.basis == "sum":
            std = 0.4 * math.sqrt(2 / (self.rings * incoming * outgoing))
        nn.init.normal_(self.weight, std=std)
        if self.phase is not None:
            nn.init.uniform_(self.phase, 0, 2 * math.pi)

    def constants(self) -> dict[str, Tensor]:
        """The linear maps from parameters to filters and from filters to the plain kernel."""
        real = self.max_order_in is None
        orders_in = 1 if self.max_order_in is None else self.max_order_in + 1
        side = self.kernel_size[0]
        return {
            "bases": harmonic_basis.expansion(side, self.rings, self.highest, self.basis == "unit"),
            "placing": harmonic_basis.arrangement(
                orders_in, self.max_order + 1, real, self.zero_order_phase == "paper"
            ),
        }

    def effective_weight(self) -> Tensor:
        """The plain kernel: (2 C' (M + 1), 2 C (M_in + 1) or C, k, k)."""
        bases, placing = cast(Tensor, self.bases), cast(Tensor, self.placing)
        profile = self.weight[self.dead :].to(bases.dtype)  # (order, out, in, ring)
        if self.phase is None:
            mixed = profile.flatten(1, 2) @ bases[:, : self.rings]
        else:
            beta = self.phase[self.dead :, ..., None].to(bases.dtype)
            both = torch.cat([profile * beta.cos(), profile * beta.sin()], -1)
            mixed = both.flatten(1, 2) @ bases  # (order, out in, 2 k k)
        incoming, outgoing = self.streams
        side = self.kernel_size[0]
        parts = mixed.unflatten(2, (2, side * side)).transpose(1, 2).reshape(placing.shape[1], -1)
        pairs = (placing @ parts).view(2 * (self.max_order + 1), -1, outgoing, incoming, side, side)
        return pairs.transpose(1, 2).reshape(self.out_channels, self.in_channels, side, side)

    def extra_repr(self) -> str:
        """Channels of a stream, orders and options."""
        orders = "real" if self.max_order_in is None else f"0..{self.max_order_in}"
        text = (
            f"{self.streams[0]}, {self.streams[1]}, kernel_size={self.kernel_size[0]}, padding={self.padding!r}, "
            f"orders={orders} -> 0..{self.max_order}, rings={self.rings}, basis={self.basis!r}"
        )
        return text + (", phase=False" if self.phase is None else f", zero_order_phase={self.zero_order_phase!r}")


def _streams(z_NCHW: Tensor, max_order: int) -> Tensor:
    """(N, 2 C (M + 1), H, W) as (N, order, re | im, C, H, W), without a copy."""
    return z_NCHW.unflatten(1, (max_order + 1, 2, z_NCHW.shape[1] // (2 * max_order + 2)))


def _squares(z_NOPCHW: Tensor, least: float = LEAST_SQUARE) -> Tensor:
    """`max(re^2 + im^2, least)`, (N, (order, C), H, W), in at least float32: half precision would overflow."""
    re, im = z_NOPCHW.to(compute_dtype(z_NOPCHW.dtype)).unbind(2)  # unlike two slices, their gradients are one stack
    return (re * re).addcmul_(im, im).clamp_min_(least).flatten(1, 2)


def _rescaled(z_NOPCHW: Tensor, gate_NCHW: Tensor) -> Tensor:
    """Every complex number times its gate, in the flat layout."""
    gate = gate_NCHW.to(z_NOPCHW.dtype).unflatten(1, (z_NOPCHW.shape[1], 1, z_NOPCHW.shape[3]))
    return (z_NOPCHW * gate).flatten(1, 3)


def _per_channel(values_C: Tensor, dtype: torch.dtype) -> Tensor:
    return values_C[:, None, None].to(dtype)


def _sum_orders(magnitudes_NCHW: Tensor, max_order: int) -> Tensor:
    """(N, (order, C), H, W) -> (N, C, H, W)."""
    total, *others = magnitudes_NCHW.chunk(max_order + 1, 1)  # added up, they stay channels last; sum(1) copies
    for magnitudes in others:
        total = total + magnitudes
    return total


def magnitude_sum(z_NCHW: Tensor, max_order: int) -> Tensor:
    """Leave the complex streams: `sum_m |Z_m|`, |Z| = sqrt(max(re^2 + im^2, 1e-12)); real and invariant.

    (N, 2 C (M + 1), H, W) -> (N, C, H, W).
    """
    roots = _squares(_streams(z_NCHW, max_order), 1e-12).sqrt_()
    return _sum_orders(roots, max_order).to(z_NCHW.dtype)


class _Complex(nn.Module):
    """A layer on complex maps of `channels` channels in each of the orders 0..`max_order`."""

    def __init__(self, channels: int, max_order: int) -> None:
        super().__init__()
        self.channels, self.max_order = check_whole("channels", channels), check_whole("max_order", max_order, 0)

    def extra_repr(self) -> str:
        """The size of the streams."""
        return f"{self.channels}, max_order={self.max_order}"


class ComplexReLU(_Complex):
    """C-ReLU: `Z -> relu(|Z| + b) / |Z| Z`, b for every (order, channel), |Z| = sqrt(max(re^2 + im^2, 1e-4)).

    (N, 2 C (M + 1), H, W) -> the same. `bias` starts uniform, by the official code's default (Glorot's).

    Args:
        channels: C.
        max_order: M.

    Raises:
        ValueError: a number is not allowed.
    """

    def __init__(
        self,
        channels: int,
        max_order: int = 1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, max_order)
        self.bias = nn.Parameter(torch.empty((max_order + 1) * channels, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform within `sqrt(6 / ((M + 1) (1 + C)))`."""
        bound = math.sqrt(6 / ((self.max_order + 1) * (1 + self.channels)))
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, z_NCHW: Tensor) -> Tensor:
        """relu(|Z| + b) / |Z| = relu(1 + b / |Z|)."""
        z = _streams(z_NCHW, self.max_order)
        inverse = _squares(z).rsqrt_()
        return _rescaled(z, (_per_channel(self.bias, inverse.dtype) * inverse).add_(1).relu_())


class ComplexBatchNorm(_Complex):
    """C-BN: `Z -> relu(BN(|Z|)) / |Z| Z`, BN for every (order, channel); the rectifier is part of it.

    (N, 2 C (M + 1), H, W) -> the same. With `leave` the layer returns only the magnitudes: `sum_m relu(BN(|Z_m|))`,
    real, (N, C, H, W). That is `magnitude_sum` of the above wherever |Z| is not under its floor of 0.01.

    Args:
        channels: C.
        max_order: M.
        leave: return the sum of the magnitudes.
        eps: of the BatchNorm.
        momentum: of the BatchNorm; the official network has 0.01.

    Raises:
        ValueError: a number or a flag is not allowed.
    """

    def __init__(
        self,
        channels: int,
        max_order: int = 1,
        *,
        leave: bool = False,
        eps: float = 1e-3,
        momentum: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, max_order)
        check_choice("leave", leave, (True, False))
        self.leave = leave
        self.norm = nn.BatchNorm2d((max_order + 1) * channels, eps=eps, momentum=momentum, device=device, dtype=dtype)

    def forward(self, z_NCHW: Tensor) -> Tensor:
        """Normalise the magnitudes, keep the angles."""
        z = _streams(z_NCHW, self.max_order)
        magnitudes = _squares(z).sqrt_()
        normalised = self.norm(magnitudes.to(z.dtype)).relu_()
        if self.leave:
            return _sum_orders(normalised, self.max_order)
        return _rescaled(z, normalised.to(magnitudes.dtype) / magnitudes)

    def fuse(self) -> MagnitudeAffine:
        """The inference form, with the BatchNorm as an affine map of the magnitudes.

        Raises:
            FusionError: the BatchNorm keeps no running statistics.
        """
        return MagnitudeAffine(self)


class MagnitudeAffine(_Complex):
    """The inference form of `ComplexBatchNorm`: `relu(s |Z| + t) / |Z| = relu(s + t / |Z|)`.

    Args:
        source: the layer; it is left untouched.
    """

    def __init__(self, source: ComplexBatchNorm) -> None:
        super().__init__(source.channels, source.max_order)
        self.leave = source.leave
        like = source.norm.weight
        scale, shift = (part.detach().to(like.dtype) for part in batch_norm_affine(source.norm))
        self.scale = nn.Parameter(scale, requires_grad=like.requires_grad)
        self.shift = nn.Parameter(shift, requires_grad=like.requires_grad)
        self.train(source.training)

    def forward(self, z_NCHW: Tensor) -> Tensor:
        """(N, 2 C (M + 1), H, W) -> the same, or (N, C, H, W) with `leave`."""
        z = _streams(z_NCHW, self.max_order)
        squares = _squares(z)
        scale, shift = (_per_channel(part, squares.dtype) for part in (self.scale, self.shift))
        if self.leave:
            return _sum_orders(torch.addcmul(shift, scale, squares.sqrt_()).relu_(), self.max_order).to(z_NCHW.dtype)
        return _rescaled(z, torch.addcmul(scale, shift, squares.rsqrt_()).relu_())


class HarmonicMeanPool(nn.Module):
    """Mean pooling of real and imaginary parts by a stride, to ceil(H / stride), with windows that mirror each other.

    If the stride divides the size, windows have `stride` pixels, as in the paper (2x2). Otherwise the windows grow by
    the same margin on both sides (3x3 around every second pixel for an odd size and stride 2) and average the pixels
    they have. A quarter turn of a square map is thus kept exactly for every size; windows from the left would not keep
    it.

    Args:
        stride: by which height and width shrink.

    Raises:
        ValueError: the stride is not a whole number of at least 1.
    """

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        self.stride = check_whole("stride", stride)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride))."""
        (kh, ph), (kw, pw) = (self._window(size) for size in x_NCHW.shape[2:])
        return F.avg_pool2d(x_NCHW, (kh, kw), self.stride, (ph, pw), count_include_pad=False)

    def _window(self, size: int) -> tuple[int, int]:
        """Side and margin of the windows along an axis."""
        last = (size - 1) % self.stride + 1  # pixels that the last window would get with windows of `stride`
        margin = (self.stride - last + 1) // 2
        return last + 2 * margin, margin

    def extra_repr(self) -> str:
        """The stride."""
        return f"stride={self.stride}"


def place_of(device: torch.device | str | None, dtype: torch.dtype | None) -> dict[str, Any]:
    """The two keyword arguments that every layer passes on."""
    return {"device": device, "dtype": dtype}
