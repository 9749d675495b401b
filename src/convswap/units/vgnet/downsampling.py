"""VGNet's downsampling block: a strided depthwise low-pass, and a pointwise only for the added channels."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ...errors import check_choice
from ..contract.block import BlockUnit
from ..contract.registry import register_unit
from ..support.depthwise import run_depthwise
from .parts import ConvActNorm, constants_made_plain, make_depthwise

METHODS = ("blur", "learnable", "maxpool")
BLURS = ("gaussian_signed", "gaussian")


@register_unit(
    "vgnet_downsampling",
    replaces="block",
    paper="arXiv:2207.10318",
    year=2022,
    summary="strided low-pass whose outputs are re-used; a pointwise computes only the additional channels",
    warm_start="none",
    fusion="none",
    default_where="strided",
    placement="inferred",
    train_eval="batch_norm",
    variants=(
        {"method": "learnable"},
        {"method": "maxpool"},
        {"bank": "gaussian", "activation": "silu", "squeeze_excite": 0.25},
    ),
)
class DownsamplingBlock(BlockUnit):
    """Sub-sample with a low-pass z = D(x), keep its last k channels, compute the other channels from all of z.

    `u = z[:, in-k:]`, `v = gate(norm(act(P z)))` with a pointwise P to out-k channels (**the BatchNorm follows the
    activation**), output `concat[u, v]`. D has neither BatchNorm nor activation. The number of re-used channels is
    `k = 0` if `in > out`, else `k = min(out // 2, in)`; so out = 2 in re-uses all of z. VGNet carries u and v on as
    two halves. If k is not out/2 the concatenation is split anew.

    (N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride)).

    Inferred by us: the use as a drop-in for strided blocks. The paper builds its own network of it, the
    `vgnet*` models.

    Args:
        method: D: `"blur"`, constant Gaussians (VGNetG, VGNetF); `"learnable"`, a 3x3 depthwise convolution (VGNetC);
            `"maxpool"`, 3x3, which no published model uses. The official code does not pad it; here it is padded by
            one pixel, so that all methods give the same size. As in that code, D is always learnable at stride 1.
        bank: of the blur: `"gaussian_signed"`, sigma 1.1 and its negative in turn (the code at the time of the
            paper), or `"gaussian"`, sigma 1 (the code of 2022 on).
        activation: `"relu"` (the code at the time of the paper) or `"silu"` (the code of 2022 on).
        squeeze_excite: ratio of a channel gate on v, 0 for none; the paper's networks with one have 0.25.

    Raises:
        ValueError: an option is not allowed.
    """

    def setup(
        self,
        *,
        method: str = "blur",
        bank: str = "gaussian_signed",
        activation: str = "relu",
        squeeze_excite: float = 0.0,
    ) -> None:
        """Check the options and build the unit; see the class."""
        check_choice("method", method, METHODS)
        check_choice("bank", bank, BLURS)
        place = self.place
        self.reused = 0 if self.in_channels > self.out_channels else min(self.out_channels // 2, self.in_channels)
        self.downsample: nn.Module
        if method == "maxpool" and self.stride > 1:
            self.downsample = nn.MaxPool2d(3, self.stride, 1)
        else:
            constant = method == "blur" and self.stride > 1
            self.downsample = make_depthwise(self.in_channels, self.stride, bank if constant else None, **place)
        self.pointwise = ConvActNorm(
            self.in_channels,
            self.out_channels - self.reused,
            activation=activation,
            squeeze_excite=squeeze_excite,
            **place,
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""
        z = self._filtered(x_NCHW)
        v = self.pointwise(z)
        return torch.cat([z[:, self.in_channels - self.reused :], v], 1) if self.reused else v

    def forward_pair(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The output in two halves (the first one channel larger where `out` is odd)."""
        if 2 * self.reused == self.out_channels:
            z = self._filtered(x_NCHW)
            return z[:, self.in_channels - self.reused :], self.pointwise(z)
        u, v = self.forward(x_NCHW).split([-(-self.out_channels // 2), self.out_channels // 2], 1)
        return u, v

    def _filtered(self, x_NCHW: Tensor) -> Tensor:
        down = self.downsample
        return run_depthwise(down, x_NCHW) if isinstance(down, nn.Conv2d) else down(x_NCHW)

    def fuse(self) -> DownsamplingBlock:
        """A copy with constant kernels as a plain convolution. Nothing folds: the BatchNorm follows the activation."""
        fused = copy.deepcopy(self)
        fused.downsample = constants_made_plain(self.downsample)
        return fused
