"""The binary ResNet-18 for CIFAR of the authors' PyTorch code (itayhubara/BinaryNet.pytorch); timm names.

Three stages of two blocks, five times as wide as the usual one: 80, 160, 320 channels. A block is convolution -
normalisation - HardTanh - convolution - sum with the shortcut - normalisation - HardTanh; a shortcut that changes shape
is a binary 1x1 convolution with normalisation. The last block's normalisation and HardTanh stand behind the average
pooling. (The authors' code also makes a normalisation there that it never uses: 640 parameters more.)

Importing this module imports timm; afterwards `timm.create_model("binarynet_resnet18_5x")` works.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from .binary_layers import Layers
from .classifier import Classifier, cifar_cfg

_WIDTHS = (80, 160, 320)


class BinaryBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, in, H, W) -> (N, out, ceil(H/stride), ceil(W/stride)).

    Args:
        layers: the settings of its layers.
        in_channels, out_channels, stride: channels and stride of the block.
        last: leave out the normalisation and the HardTanh at the end.
    """

    def __init__(self, layers: Layers, in_channels: int, out_channels: int, stride: int, *, last: bool) -> None:
        super().__init__()
        self.conv1 = layers.conv(in_channels, out_channels, 3, stride, 1)
        self.norm1, self.act1 = layers.normalization(out_channels), nn.Hardtanh(inplace=True)
        self.conv2 = layers.conv(out_channels, out_channels, 3, 1, 1)
        self.norm2 = nn.Identity() if last else layers.normalization(out_channels)
        self.act2 = nn.Identity() if last else nn.Hardtanh(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = layers.layer(layers.conv(in_channels, out_channels, 1, stride), last=True)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Both branches and their sum."""
        y_NCHW = self.conv2(self.act1(self.norm1(self.conv1(x_NCHW))))
        return self.act2(self.norm2(y_NCHW + self.shortcut(x_NCHW)))


class BinaryResNet(Classifier):
    """The binary ResNet; (N, in_chans, H, W) -> (N, num_classes), the logits normalised.

    Args:
        depth: of each stage, in blocks.
        widths: of the stages.
        num_classes: outputs; 0 leaves the last layer out and returns the features.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to leave the feature map unpooled (then without classifier).
        layers: further arguments are those of `Layers`.

    Raises:
        ValueError: an argument is not allowed.
    """

    classifier_name = "head"

    def __init__(
        self,
        depth: int = 2,
        widths: Sequence[int] = _WIDTHS,
        *,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        **layers: Any,
    ):
        super().__init__()
        self.layers = Layers(**{"scaled": False, **layers})
        self.stem = self.layers.layer(self.layers.conv(in_chans, widths[0], 3, 1, 1, first=True))
        channels = widths[0]
        self.stages = nn.Sequential()
        self.feature_info = []
        for index, width in enumerate(widths):
            stage = nn.Sequential()
            for block in range(depth):
                last = index == len(widths) - 1 and block == depth - 1
                stage.append(BinaryBlock(self.layers, channels, width, 2 if index and not block else 1, last=last))
                channels = width
            self.stages.append(stage)
            self.feature_info.append({"num_chs": width, "reduction": 1 << index, "module": f"stages.{index}"})
        self.norm, self.act = self.layers.normalization(channels), nn.Hardtanh()
        self.num_features = self.head_hidden_size = channels
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))

    def make_classifier(self, num_classes: int, **place: Any) -> nn.Module:
        """A last layer with bias, and the normalisation of the logits."""
        conv = self.layers.conv(self.num_features, num_classes, 1, bias=True, **place)
        return self.layers.layer(conv, last=True)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map, before its normalisation."""
        return self.stages(self.stem(x_NCHW))

    def forward_head(self, x_NCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """Average, normalise, classify; `pre_logits` stops before the last layer."""
        if not self.global_pool:
            return x_NCHW
        x_NF11 = self.act(self.norm(x_NCHW.mean((2, 3), keepdim=True)))
        return (x_NF11 if pre_logits else self.get_classifier()(x_NF11)).flatten(1)


default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": cifar_cfg("stem.conv", "head.conv")
        for name in ("binarynet_resnet18_5x", "binarynet_resnet18_5x_float")
    }
)


@register_model
def binarynet_resnet18_5x(pretrained: bool = False, **arguments: Any) -> BinaryResNet:
    """The binary ResNet-18 for CIFAR, five times as wide: 4.34 million parameters."""
    return build_model_with_cfg(BinaryResNet, "binarynet_resnet18_5x", pretrained, **arguments)


@register_model
def binarynet_resnet18_5x_float(pretrained: bool = False, **arguments: Any) -> BinaryResNet:
    """The float twin of `binarynet_resnet18_5x`."""
    arguments = {"binary": False, **arguments}
    return build_model_with_cfg(BinaryResNet, "binarynet_resnet18_5x_float", pretrained, **arguments)
