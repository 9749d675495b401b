"""The harmonic network for rotated digits (arXiv:1612.04642) and a plain twin of its size, registered with timm.

`harmonic_mnist`: six 5x5 harmonic convolutions with orders {0, 1} and 8, 8, 16, 16, 32, 32 channels an order, mean
pooling after each pair, a seventh to the classes, the sum of the magnitudes over the orders, the global mean and a
bias. The logits of a square image of any size are exactly invariant under quarter turns, since the pooling windows
mirror each other. The network has 22,826 parameters. The official code has 34,066: it also makes 11,240 of negative
orders and never reads them. `dead_weights=True` keeps these.

`plain_mnist`: the same layout of plain 3x3 convolutions, BatchNorm and ReLU, with widths that make it as large. It has
22,832 parameters. That is the smallest number from 22,826 on with about as many channels in both layers of a block and
twice as many in the next block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import UsageError, check_choice, is_whole
from ..units.harmonic.layers import ComplexBatchNorm, ComplexReLU, HarmonicConv2d, HarmonicMeanPool, magnitude_sum
from .classifier import Classifier, cifar_cfg

MAX_ORDER = 1
_CHANNELS = (8, 16, 32)
_PLAIN = {3: (8, 9, 16, 18, 32, 34), 5: (6, 6, 10, 10, 17, 20)}  # 22,832 and 22,915 parameters


def _check_channels(channels: object, *, pairs: bool = False) -> None:
    """Refuse anything but a sequence of channels, with `pairs` an even number of them.

    Raises:
        ValueError: `channels` is anything else.
    """
    found = list(channels) if isinstance(channels, Sequence) else []
    whole = all(is_whole(n) and n > 0 for n in found)
    if not found or not whole or (pairs and len(found) % 2):
        wanted = "pairs of whole numbers" if pairs else "one or more whole numbers"
        raise UsageError(f"channels={channels!r} is not allowed; give {wanted} of at least 1")


class _DigitClassifier(Classifier):
    """The common part of both networks: a last convolution to the classes, then a global mean."""

    classifier_name = "head"
    blocks: nn.Sequential
    kernel_size: int

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map, a quarter of the image's size, rounded up."""
        return self.blocks(x_NCHW)


class HarmonicMnist(_DigitClassifier):
    """Three blocks of H-convolution, C-ReLU, H-convolution, C-BN, mean pooling between; an H-convolution; magnitudes.

    Args:
        channels: of each order in the three blocks.
        max_order: the highest order.
        kernel_size: kernel size of all convolutions.
        rings: number of rings of their radial profiles.
        dead_weights: also keep the official code's unread parameters of negative orders.
        zero_order_phase: `"paper"`, or `"code"` for the official code's handling, see `HarmonicConv2d`.
        basis: `"unit"` (ours), or `"sum"` for the official scale of the bases, which its weights need.
        momentum: of the BatchNorms (0.01 is the official decay of 0.99).
        num_classes: outputs; 0 leaves the head out and returns the features.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` for unpooled maps (of the features; then without classes).

    Raises:
        ValueError: an argument is not allowed.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = _CHANNELS,
        max_order: int = MAX_ORDER,
        kernel_size: int = 5,
        rings: int = 4,
        dead_weights: bool = False,
        zero_order_phase: str = "paper",
        basis: str = "unit",
        momentum: float = 0.01,
        num_classes: int = 10,
        in_chans: int = 1,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        _check_channels(channels)
        self.max_order = max_order
        self._filters: dict[str, Any] = {
            "max_order": max_order,
            "rings": rings,
            "dead_weights": dead_weights,
            "zero_order_phase": zero_order_phase,
            "basis": basis,
        }
        layers: list[nn.Module] = []
        before: int | None = None
        for width in channels:
            orders = None if before is None else max_order
            pool = nn.Identity() if before is None else HarmonicMeanPool(2)
            first = HarmonicConv2d(before or in_chans, width, kernel_size, max_order_in=orders, **self._filters)
            second = HarmonicConv2d(width, width, kernel_size, max_order_in=max_order, **self._filters)
            norm = ComplexBatchNorm(width, max_order, momentum=momentum)
            layers.append(nn.Sequential(pool, first, ComplexReLU(width, max_order), second, norm))
            before = width
        self.blocks = nn.Sequential(*layers)
        self.kernel_size = kernel_size
        self.num_features = self.head_hidden_size = channels[-1]
        self.feature_info = [
            {"num_chs": 2 * (max_order + 1) * width, "reduction": 2**i, "module": f"blocks.{i}"}
            for i, width in enumerate(channels)
        ]
        self.reset_classifier(num_classes, global_pool)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a freshly drawn last H-convolution to `num_classes` outputs (0: none) and their bias at the end."""
        self.bias: nn.Parameter | None = None
        super().reset_classifier(num_classes, global_pool)

    def make_classifier(self, num_classes: int, **place: Any) -> nn.Module:
        """An H-convolution without phases; the bias is added to the pooled magnitudes."""
        self.bias = nn.Parameter(torch.full((num_classes,), 0.01, **place))
        filters = self._filters | {"phase": False, "max_order_in": self.max_order}
        return HarmonicConv2d(self.num_features, num_classes, self.kernel_size, **filters, **place)

    def forward_head(self, z_NCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """Magnitudes of the class map (of the features: `pre_logits`, or without classes), and their mean."""
        classify = not pre_logits and self.bias is not None
        y_NCHW = magnitude_sum(self.get_classifier()(z_NCHW) if classify else z_NCHW, self.max_order)
        if not self.global_pool:
            return y_NCHW
        y_NF = y_NCHW.mean((2, 3))
        return y_NF + self.bias if classify and self.bias is not None else y_NF


class PlainMnist(_DigitClassifier):
    """The plain twin: convolution, ReLU, convolution, BatchNorm, ReLU in each block, the same pooling and head.

    Args:
        kernel_size: 3, or 5 as in the harmonic network, with fewer channels. With 3 the twin reads digits better.
        channels: channels of the six convolutions. None: those that make it as large as `harmonic_mnist`, or a
            little larger.
        momentum: of the BatchNorms.
        num_classes: outputs; 0 leaves the head out and returns the features.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` for unpooled maps.

    Raises:
        ValueError: an argument is not allowed.
    """

    def __init__(
        self,
        *,
        kernel_size: int = 3,
        channels: Sequence[int] | None = None,
        momentum: float = 0.01,
        num_classes: int = 10,
        in_chans: int = 1,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        if channels is None:
            check_choice("kernel_size", kernel_size, tuple(_PLAIN))
            channels = _PLAIN[kernel_size]
        _check_channels(channels, pairs=True)
        layers: list[nn.Module] = []
        before = in_chans
        for index in range(0, len(channels), 2):
            inner, width = channels[index : index + 2]
            layers.append(
                nn.Sequential(
                    HarmonicMeanPool(2) if index else nn.Identity(),
                    nn.Conv2d(before, inner, kernel_size, padding="same"),
                    nn.ReLU(),
                    nn.Conv2d(inner, width, kernel_size, padding="same", bias=False),
                    nn.BatchNorm2d(width, momentum=momentum),
                    nn.ReLU(),
                )
            )
            before = width
        self.blocks = nn.Sequential(*layers)
        self.kernel_size = kernel_size
        self.num_features = self.head_hidden_size = before
        self.feature_info = [
            {"num_chs": width, "reduction": 2**i, "module": f"blocks.{i}"} for i, width in enumerate(channels[1::2])
        ]
        self.reset_classifier(num_classes, global_pool)

    def make_classifier(self, num_classes: int, **place: Any) -> nn.Module:
        """A convolution as large as the others."""
        return nn.Conv2d(self.num_features, num_classes, self.kernel_size, padding="same", **place)

    def forward_head(self, x_NCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """The global mean of the class map, or of the features."""
        y_NCHW = x_NCHW if pre_logits else self.get_classifier()(x_NCHW)
        return y_NCHW.mean((2, 3)) if self.global_pool else y_NCHW


_DIGITS = {"input_size": (1, 28, 28), "pool_size": (7, 7), "mean": (0.1307,), "std": (0.3081,)}

default_cfgs = generate_default_cfgs(
    {f"{name}.untrained": cifar_cfg("blocks.0.1", "head") | _DIGITS for name in ("harmonic_mnist", "plain_mnist")}
)


def _make(cls: Callable[..., nn.Module], name: str, pretrained: bool, arguments: dict[str, Any]) -> nn.Module:
    return build_model_with_cfg(cls, name, pretrained, **arguments)


@register_model
def harmonic_mnist(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The network for rotated digits; `dead_weights=True` for the official count."""
    return _make(HarmonicMnist, "harmonic_mnist", pretrained, kwargs)


@register_model
def plain_mnist(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The plain twin of `harmonic_mnist`, of equal size."""
    return _make(PlainMnist, "plain_mnist", pretrained, kwargs)
