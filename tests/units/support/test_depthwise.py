"""The precision of strided depthwise convolutions in a mixed-precision step on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convswap.units.support.depthwise import run_depthwise


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("train", [False, True])
def test_float32_inside_only_where_bfloat16_is_slow(stride: int, train: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3, stride, 1, groups=8)
    seen = []
    conv.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    x = torch.randn(2, 8, 9, 9)
    with torch.set_grad_enabled(train), torch.autocast("cpu", dtype=torch.bfloat16):
        y = run_depthwise(conv, x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert seen == [torch.float32 if train and stride == 2 else torch.bfloat16]
    torch.testing.assert_close(y.float(), conv(x), rtol=0.02, atol=0.02)


def test_without_autocast_nothing_changes() -> None:
    conv = nn.Conv2d(4, 4, 3, 2, 1, groups=4, dtype=torch.float64)
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    assert torch.equal(run_depthwise(conv, x), conv(x))
