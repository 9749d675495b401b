"""Units fold their BatchNorms also after `convert_sync_batchnorm`, which puts another class in their place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convswap.units import get_unit

BLOCK = {"in_channels": 16, "out_channels": 16}
CONVOLUTION = BLOCK | {"kernel_size": 3, "padding": 1}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ghost", CONVOLUTION),
        ("sk", CONVOLUTION),
        ("mgic", BLOCK),
        ("g_ghost", BLOCK),
        ("half_identity", BLOCK | {"depthwise": "edge"}),
        ("minimum", CONVOLUTION | {"norm": "batch"}),
        ("minimum_block", BLOCK | {"norm": "batch"}),
        ("minimum_block", BLOCK | {"combine": "log"}),
    ],
)
def test_synchronised_norms_fold_like_plain_ones(name, arguments):
    unit = get_unit(name).cls(**arguments).double().eval()
    with torch.no_grad():
        for norm in unit.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
                if norm.affine:
                    norm.weight.normal_()
                    norm.bias.normal_()
    x_NCHW = torch.randn(2, 16, 7, 6, dtype=torch.float64)
    expected = unit(x_NCHW)
    left = _norms(unit.fuse())
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(unit)
    assert _norms(synchronised) > left
    fused = synchronised.fuse()
    assert _norms(fused) == left
    torch.testing.assert_close(fused(x_NCHW), expected, rtol=0, atol=1e-10)
    if name == "half_identity":
        dense = unit.pointwise.rest(synchronised.to_dense_conv()(x_NCHW))
        torch.testing.assert_close(dense, expected[:, 8:], rtol=0, atol=1e-10)


def _norms(module: nn.Module) -> int:
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())
