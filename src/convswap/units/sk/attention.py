"""The shared part of the selective kernel unit's two forms: attention over branches and the weighted sum."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError
from ..contract.feature import FeatureUnit
from ..contract.geometry import Geometry
from ..support.folding import fold_conv_norm


class BranchAttention(nn.Module):
    """The softmax over branches: `softmax_i(W2 ReLU(BN(W1 S)))` for S the spatial mean of the branches' sum.

    Args:
        channels: of each branch.
        branches: M.
        hidden: d.
    """

    def __init__(
        self,
        channels: int,
        branches: int,
        hidden: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place: Any = {"device": device, "dtype": dtype}
        self.branches = branches
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False, **place)
        self.norm: nn.Module = nn.BatchNorm2d(hidden, **place)
        self.select = nn.Conv2d(hidden, branches * channels, 1, bias=False, **place)

    def forward(self, features: list[Tensor]) -> Tensor:
        """M tensors (N, C, H, W) -> weights (N, M, C, 1, 1) in the features' dtype.

        Raises:
            ValueError: the batch is 1 and the BatchNorm normalises by the batch.
        """
        # The mean of the sum, without forming the sum.
        pooled = [f.mean((2, 3), keepdim=True, dtype=self.reduce.weight.dtype) for f in features]
        total = pooled[0]
        for other in pooled[1:]:
            total = total + other
        self._check_batch(total)
        device = total.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                logits = self._logits(total)
        else:
            logits = self._logits(total)
        # W2's outputs are branch-major: the first C belong to branch 1.
        return logits.unflatten(1, (self.branches, -1)).softmax(1).to(features[0].dtype)

    def _logits(self, pooled: Tensor) -> Tensor:
        return self.select(F.relu(self.norm(self.reduce(pooled))))

    def _check_batch(self, pooled: Tensor) -> None:
        # SyncBatchNorm is another class: over several ranks a batch of 1 on each is enough.
        if isinstance(self.norm, nn.BatchNorm2d) and self.norm.training and pooled.shape[0] == 1:
            raise UsageError(
                "a batch size of 1 cannot train a selective kernel unit: its attention is normalised over the batch, "
                "which must hold at least 2 images; use a larger batch (drop_last=True for a last one of 1), "
                "SyncBatchNorm over several processes, or eval() mode"
            )


class FusedSelectiveKernel(nn.Module):
    """The inference form of `SelectiveKernelConv2d`, built by its `fuse()`: the same with BatchNorms folded."""

    def __init__(
        self,
        unit: FeatureUnit,
        convs: Iterable[nn.Conv2d],
        attention: BranchAttention | None,
        bias: Tensor | None,
        relu: bool,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = unit.in_channels, unit.out_channels
        self.kernel_size, self.stride, self.padding = unit.kernel_size, unit.stride, unit.padding
        self.dilation, self.groups, self.padding_mode = unit.dilation, unit.groups, unit.padding_mode
        self.margin = cast(Any, unit).margin
        ends: list[nn.Module] = [nn.ReLU(inplace=True)] if relu else []
        self.branches = nn.ModuleList(nn.Sequential(conv, *ends) for conv in convs)
        self.attention = None if attention is None else _fold_attention(attention)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W), or (in, H, W), -> (N, out, H', W')."""
        return select_kernels(self, input)

    def extra_repr(self) -> str:
        """The geometry in one line."""
        return Geometry.of(self).describe()


def select_kernels(unit: Any, input: Tensor) -> Tensor:
    """The forward pass of both forms: (N, in, H, W), or (in, H, W), -> (N, out, H', W')."""
    x = input if input.dim() == 4 else input.unsqueeze(0)
    if unit.margin:
        x = F.pad(x, unit.margin, mode=unit.padding_mode)
    features = [branch(x) for branch in unit.branches]
    y = features[0] if unit.attention is None else _weighted_sum(features, unit.attention(features))
    if unit.bias is not None:
        y = y + unit.bias.to(y.dtype)[:, None, None]
    return y if input.dim() == 4 else y.squeeze(0)


def _weighted_sum(features: list[Tensor], weights: Tensor) -> Tensor:
    if len(features) == 2:  # the two weights sum to 1: one pass instead of two
        return torch.lerp(features[1], features[0], weights[:, 0])
    y = features[0] * weights[:, 0]
    for index in range(1, len(features)):
        y = torch.addcmul(y, features[index], weights[:, index])
    return y


def _fold_attention(attention: BranchAttention) -> BranchAttention:
    folded = copy.deepcopy(attention)
    folded.reduce = fold_conv_norm(attention.reduce, cast(nn.BatchNorm2d, attention.norm))
    folded.norm = nn.Identity().train(attention.training)
    return folded
