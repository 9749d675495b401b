"""BatchNorm in eval mode as a fixed affine map of every channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import FusionError


def batch_norm_affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """The per-channel `(scale, shift)` of a BatchNorm in eval mode, each (C,), in float64.

    `scale = gamma / sqrt(running_var + eps)`, `shift = beta - running_mean * scale`; gamma = 1 and beta = 0 for
    `affine=False`.

    Raises:
        FusionError: the BatchNorm keeps no running statistics, so it is not a fixed affine map.
    """
    mean, variance = norm.running_mean, norm.running_var
    if not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
        raise FusionError(f"{norm} keeps no running statistics: it normalises by the batch and cannot be folded")
    scale = torch.rsqrt(variance.double() + float(norm.eps))  # type: ignore[arg-type]
    if isinstance(norm.weight, Tensor):
        scale = scale * norm.weight.double()
    shift = -mean.double() * scale
    if isinstance(norm.bias, Tensor):
        shift = shift + norm.bias.double()
    return scale, shift
