"""Average pooling before a 1x1 convolution in place of behind it: equal, and the convolution has fewer pixels.

A 1x1 convolution mixes channels, average pooling mixes pixels, so the two commute: `mean(W x + b) = W mean(x) + b`. A
window whose weights do not sum to 1 (it counts padding, or has a divisor of its own) commutes only where b = 0.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

from torch import nn

from ..errors import FusionError
from .sites import all_paths, carry_hooks, is_plain, replace, why_not_plain


def why_not_pool_first(conv: nn.Module, pool: nn.Module, *, biased: bool) -> str | None:
    """Why pooling stays behind this convolution, or None. `biased`: whether the convolution has or will get a bias."""
    if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (1, 1):
        return "it is not a 1x1 convolution"
    if not is_plain(conv) or why_not_plain(conv) is not None or conv._forward_hooks or conv._forward_pre_hooks:
        return "it is not a plain convolution without hooks"
    if conv.stride != (1, 1) or conv.padding not in ((0, 0), "valid", "same"):
        return "its stride or padding does not keep the map's size"
    if type(pool) is not nn.AvgPool2d or pool._forward_pre_hooks:
        return "the average pooling behind it is no nn.AvgPool2d module of its own"
    if _pair(pool.stride) == (1, 1):
        return "the average pooling behind it keeps the map's size"
    sums_to_one = pool.divisor_override is None and (_pair(pool.padding) == (0, 0) or not pool.count_include_pad)
    if biased and not sums_to_one:
        return "it has a bias, and the windows behind it do not average (padding counts, or a divisor is given)"
    return None


def pool_before(model: nn.Module, conv: str, pool: str) -> nn.Module:
    """Exchange the two: pooling and convolution stand at the convolution's path, an identity at that of the pooling.

    Raises:
        FusionError: they do not commute.
    """
    convolution, pooling = model.get_submodule(conv), model.get_submodule(pool)
    reason = why_not_pool_first(convolution, pooling, biased=getattr(convolution, "bias", None) is not None)
    if reason is not None:
        raise FusionError(f"{conv} cannot stand behind {pool}: {reason}")
    here, there = all_paths(model, convolution), all_paths(model, pooling)
    left = nn.Identity().eval()
    carry_hooks(pooling, left)
    old = cast(nn.AvgPool2d, pooling)
    shape = (old.kernel_size, old.stride, old.padding, old.ceil_mode, old.count_include_pad, old.divisor_override)
    joined = nn.Sequential(OrderedDict(pool=nn.AvgPool2d(*shape), conv=convolution)).eval()
    return replace(replace(model, there, left), here, joined)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
