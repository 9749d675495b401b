"""ResNet-18 with binary weights (BWN) and with binary weights and inputs (XNOR-Net), arXiv:1603.05279; timm names.

The paper has no program for these networks. Known are the 3x3 convolutions, all binary, the BatchNorm before the sign,
and the 1x1 convolutions of the shortcuts (type B). We infer that these shortcuts have full precision, like the first
convolution and the linear layer, and that the BatchNorm before a sum stays. Parameter names are torchvision's, with
`.conv` and `.bn` inside XNOR units. `swap(resnet18, "xnor")` gives the same network.

Importing this module imports timm; afterwards `timm.create_model("xnor_resnet18")` works.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import check_choice
from ..units import BinaryWeightConv2d, XnorConv2d
from .classifier import Classifier, imagenet_cfg


class BinaryBasicBlock(nn.Module):
    """Two binary 3x3 convolutions around a full-precision shortcut: `relu(bn2(conv2(relu(conv1(x)))) + shortcut(x))`.

    XNOR units have their own BatchNorm before their sign. With only binary weights, a BatchNorm follows `conv1`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, binary: str, **options: Any):
        super().__init__()
        unit = XnorConv2d if binary == "xnor" else BinaryWeightConv2d
        self.conv1 = unit(in_channels, out_channels, 3, stride, 1, bias=False, **options)
        self.bn1 = nn.Identity() if binary == "xnor" else nn.BatchNorm2d(out_channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = unit(out_channels, out_channels, 3, 1, 1, bias=False, **options)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act2 = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Add the residual branch to the shortcut."""
        residual = self.act1(self.bn1(self.conv1(x_NCHW)))
        residual = self.bn2(self.conv2(residual))
        shortcut = x_NCHW if self.downsample is None else self.downsample(x_NCHW)
        return self.act2(residual + shortcut)


class BinaryResNet18(Classifier):
    """ResNet-18 whose 3x3 convolutions are binary: (N, in_chans, H, W) -> (N, num_classes).

    Args:
        binary: `"xnor"` (signs of the inputs too) or `"weight"`.
        input_scale: for `"xnor"`, the unit's option: `"none"` or `"K"`.
        num_classes: outputs of the classifier; 0 leaves it out and returns the 512 features.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to leave the feature map unpooled (then without classifier).
        drop_rate: dropout before the classifier while training.

    Raises:
        ValueError: an argument is not allowed.
    """

    classifier_name = "fc"

    def __init__(
        self,
        *,
        binary: str = "xnor",
        input_scale: str = "none",
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ):
        super().__init__()
        check_choice("binary", binary, ("xnor", "weight"))
        options: dict[str, Any] = {"input_scale": input_scale} if binary == "xnor" else {}
        self.num_features = self.head_hidden_size = 512
        self.conv1 = nn.Conv2d(in_chans, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.feature_info = [{"num_chs": 64, "reduction": 2, "module": "relu"}]
        channels = 64
        for index, out in enumerate((64, 128, 256, 512), start=1):
            first = BinaryBasicBlock(channels, out, 1 if index == 1 else 2, binary, **options)
            self.add_module(f"layer{index}", nn.Sequential(first, BinaryBasicBlock(out, out, 1, binary, **options)))
            self.feature_info.append({"num_chs": out, "reduction": 2 << index, "module": f"layer{index}"})
            channels = out
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map, (N, 512, H/32, W/32)."""
        x_NCHW = self.maxpool(self.relu(self.bn1(self.conv1(x_NCHW))))
        for index in range(1, 5):
            x_NCHW = self.get_submodule(f"layer{index}")(x_NCHW)
        return x_NCHW


default_cfgs = generate_default_cfgs(
    {f"{name}.untrained": imagenet_cfg("conv1", "fc") for name in ("xnor_resnet18", "bwn_resnet18")}
)


@register_model
def xnor_resnet18(pretrained: bool = False, **arguments: Any) -> BinaryResNet18:
    """XNOR-Net ResNet-18."""
    return build_model_with_cfg(BinaryResNet18, "xnor_resnet18", pretrained, **arguments)


@register_model
def bwn_resnet18(pretrained: bool = False, **arguments: Any) -> BinaryResNet18:
    """Binary-Weight-Network ResNet-18: 11,689,512 parameters, as many as ResNet-18."""
    return build_model_with_cfg(BinaryResNet18, "bwn_resnet18", pretrained, binary="weight", **arguments)
