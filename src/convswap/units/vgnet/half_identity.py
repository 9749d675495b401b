"""The half-identity block: half of the depthwise filters are identities, half of the outputs are passed on (VGNet)."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import UsageError, check_choice
from ..contract.block import BlockUnit, Place
from ..contract.geometry import Geometry, plain_conv
from ..contract.registry import register_unit
from ..support.folding import BATCH_NORMS, batch_norm_affine
from .parts import ConvActNorm, constants_made_plain, exact_weight, fold_norm_between, make_depthwise

DEPTHWISE = ("learnable", "gaussian", "edge", "edge_gaussian")


@register_unit(
    "half_identity",
    replaces="block",
    paper="arXiv:2207.10318",
    year=2022,
    summary="half of the channels passed on untouched, the other half computed from all of them",
    warm_start="none",
    fusion="none",
    default_where="same",
    placement="inferred",
    train_eval="batch_norm",
    variants=(
        {"squeeze_excite": 0.25, "activation": "silu"},
        {"depthwise": "edge_gaussian"},
        {"depthwise": "edge"},
        {"depthwise": "gaussian", "squeeze_excite": 0.25},
    ),
)
class HalfIdentityBlock(BlockUnit):
    """A second-order recurrence over a pair of tensors (u, v) of C/2 channels each.

    `u' = v`, and `v' = gate(norm(act(P concat[u, D(v)])))` with a 3x3 depthwise D on C/2 channels and a pointwise
    P from C to C/2 channels; **the BatchNorm follows the activation**. There is no residual sum: the identity is what
    passes on. Parameters with a learnable D: `9 C/2 + C^2/2 + C`. On one tensor, the pair is concatenated:
    `[u, v] -> [v, v']`, (N, C, H, W) -> (N, C, H, W); `forward_pair` saves that copy where blocks follow each other.

    With constant kernels in D (VGNetF), D is followed by a BatchNorm without activation. `fuse()` folds its scale into
    D and its shift into a bias of P. The other BatchNorm stands behind the activation and cannot be folded, so a block
    with a learnable D stays as it is. `to_dense_conv()` gives all before the activation as one 3x3 convolution.

    Inferred by us: the use as a drop-in for residual blocks (every block that keeps its channels and size). The paper
    builds its own network of it, the `vgnet*` models. `depthwise="gaussian"` is ours.

    Args:
        depthwise: `"learnable"` (VGNetC, VGNetG), or constant kernels: `"edge"` (VGNetE), `"edge_gaussian"` (VGNetF),
            `"gaussian"`.
        activation: `"relu"` (the code at the time of the paper) or `"silu"` (the code of 2022 on).
        squeeze_excite: ratio of a channel gate on v', 0 for none; the paper's networks with one have 0.25.

    Raises:
        ValueError: an option is not allowed, the channels differ or are odd, or the stride is not 1.
    """

    def setup(self, *, depthwise: str = "learnable", activation: str = "relu", squeeze_excite: float = 0.0) -> None:
        """Check the options and build the unit; see the class."""
        ends = (self.in_channels, self.out_channels, self.stride)
        reason = _refused(*ends)
        if reason is not None:
            raise UsageError("in_channels={}, out_channels={}, stride={}: {}".format(*ends, reason))
        check_choice("depthwise", depthwise, DEPTHWISE)
        place = self.place
        half = self.in_channels // 2
        learnable = depthwise == "learnable"
        self.depthwise: nn.Module = make_depthwise(half, 1, None if learnable else depthwise, **place)
        self.depthwise_norm: nn.Module = nn.Identity() if learnable else nn.BatchNorm2d(half, **place)
        self.pointwise = ConvActNorm(
            self.in_channels, half, activation=activation, squeeze_excite=squeeze_excite, **place
        )

    @classmethod
    def supports(cls, place: Place, **options: Any) -> str | None:
        """Why the block cannot stand there (channels that change or are odd, a stride), or None."""
        return _refused(place.in_channels, place.out_channels, place.stride)

    def forward_pair(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(u, v) -> (v, v'), each (N, C/2, H, W)."""
        filtered = self.depthwise_norm(self.depthwise(v))
        return v, self.pointwise(torch.cat([u, filtered], 1))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """[u, v] -> [v, v'], (N, C, H, W) -> (N, C, H, W)."""
        u, v = x_NCHW.chunk(2, 1)  # not two slices: the gradient of each would be a map of zeros to fill and add
        return torch.cat(self.forward_pair(u, v), 1)

    def fuse(self) -> HalfIdentityBlock:
        """A copy with constant kernels as a plain convolution and the BatchNorm behind them folded away."""
        fused = copy.deepcopy(self)
        if isinstance(self.depthwise_norm, BATCH_NORMS):
            fused.depthwise, fused.pointwise.conv = fold_norm_between(
                cast(nn.Conv2d, self.depthwise), self.depthwise_norm, self.pointwise.conv, self.in_channels // 2
            )
            fused.depthwise_norm = nn.Identity().train(self.depthwise_norm.training)
        else:
            fused.depthwise = constants_made_plain(self.depthwise)
        return fused

    @torch.no_grad()
    def to_dense_conv(self) -> nn.Conv2d:
        """All before the activation as one 3x3 convolution of concat[u, v], C -> C/2 channels: exact in eval mode.

        `W[:, j] = P[:, j]` at the centre tap for u's channels and `P[:, j] D_j` for v's; a BatchNorm behind D gives a
        bias. It computes nine times the products of P, so it is not a cheaper form, but any tool understands it:
        `v' = pointwise.rest(to_dense_conv()(x))`.
        """
        half = self.in_channels // 2
        small, large = exact_weight(cast(nn.Conv2d, self.depthwise)), exact_weight(self.pointwise.conv)
        bias = None if self.pointwise.conv.bias is None else self.pointwise.conv.bias.double()
        if isinstance(self.depthwise_norm, BATCH_NORMS):
            scale, shift = batch_norm_affine(self.depthwise_norm)
            small = small * scale[:, None, None, None]
            bias = large[:, half:, 0, 0] @ shift
        dense = large.new_zeros(half, self.in_channels, 3, 3)
        dense[:, :half, 1, 1] = large[:, :half, 0, 0]
        dense[:, half:] = large[:, half:] * small[:, 0]
        geometry = Geometry(self.in_channels, half, (3, 3), padding=(1, 1))
        return plain_conv(geometry, dense, bias, like=self.pointwise.conv.weight, train=self.training)


def _refused(in_channels: int, out_channels: int, stride: int) -> str | None:
    """Why a half-identity block cannot stand there, or None."""
    if stride != 1:
        return f"it passes half of its channels on and so needs stride 1, not {stride}"
    if in_channels != out_channels:
        return f"it needs as many output as input channels, not {in_channels}->{out_channels}"
    return (
        f"it splits its channels into halves and so needs an even number, not {in_channels}"
        if in_channels % 2
        else None
    )
