"""BatchNorm as a fixed affine map, and folded into the convolution before it, for the units that hold such pairs."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn

from ...ops.batch_norm import batch_norm_affine
from ..contract.geometry import Geometry, plain_conv

M = TypeVar("M", bound=nn.Module)

# `convert_sync_batchnorm` turns a BatchNorm into a SyncBatchNorm, which is not a subclass of it.
BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


@torch.no_grad()
def fold_conv_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> nn.Conv2d:
    """One convolution that equals `norm(conv(x))` in eval mode: formed in float64, cast last, a new module.

    Device, dtype, trainability and mode are those of `conv`.

    Raises:
        FusionError: the BatchNorm keeps no running statistics.
    """
    scale, shift = batch_norm_affine(norm)
    weight = conv.weight.double() * scale[:, None, None, None]
    bias = shift if conv.bias is None else shift + conv.bias.double() * scale
    return plain_conv(Geometry.of(conv), weight, bias, like=conv.weight, train=conv.training)


def fold_pairs(module: M) -> M:
    """A copy in which every convolution takes in the BatchNorm registered right after it; an identity stays there.

    Only for modules that call their children in the order of definition, as the units that use this do.

    Raises:
        FusionError: a BatchNorm keeps no running statistics.
    """
    copied = copy.deepcopy(module)
    for parent in list(copied.modules()):
        for (first, conv), (second, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, BATCH_NORMS):
                parent._modules[first] = fold_conv_norm(conv, norm)
                parent._modules[second] = nn.Identity().train(norm.training)
    return copied
