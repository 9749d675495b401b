"""Residual networks of multigrid-in-channels blocks (arXiv:2011.09128), registered with timm.

`mgic_resnet34_g16`, `_g32`, `_g64` and `mgic_resnet50_g16`, `_g32`, `_g64` are ResNet-34 and ResNet-50 in which
every residual block is an `MGICBlock` of that group size (and coarsest width), otherwise as the official code
builds them: the usual stem, depthwise 3x3 convolutions where stride or width change. `cifar_mgic_resnet*` are the
networks for small images. The sizes are those of the official code; the paper's own tables were not available.

Importing this module imports timm; afterwards `timm.create_model("mgic_resnet34_g16")` works.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import UsageError, check_choice
from ..units import MGICBlock
from .classifier import Classifier, cifar_cfg, imagenet_cfg


class MGICResNet(Classifier):
    """A residual network of MGIC blocks.

    Args:
        widths: widths of the stages. Bottleneck blocks put out 4 times as many channels. The stem has the first width.
        repeats: blocks in each stage.
        strides: of the first block of each stage.
        group_size, coarse_channels: options of every block. `coarse_channels` is `group_size` by default.
        block: `"basic"` or `"bottleneck"`.
        stem: `"imagenet"` (7x7 convolution of stride 2 and 3x3 max pool of stride 2) or `"cifar"` (3x3, stride 1).
        num_classes: outputs of the classifier; 0 leaves it out and returns the pooled features.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to leave the feature map unpooled (then without classifier).
        drop_rate: dropout before the classifier while training.
        options: the other options of `MGICBlock`, such as `coarsest`. `quirks` is `"code"` by default.

    Raises:
        ValueError: an option is not allowed.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512),
        repeats: Sequence[int] = (3, 4, 6, 3),
        strides: Sequence[int] = (1, 2, 2, 2),
        *,
        group_size: int = 16,
        coarse_channels: int | None = None,
        block: str = "basic",
        stem: str = "imagenet",
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        **options: Any,
    ):
        super().__init__()
        check_choice("block", block, ("basic", "bottleneck"))
        check_choice("stem", stem, ("imagenet", "cifar"))
        if not len(widths) == len(repeats) == len(strides) > 0:
            raise UsageError(f"widths={widths}, repeats={repeats} and strides={strides} must be equally long")
        options = {"quirks": "code"} | options
        options |= {"block": block, "group_size": group_size, "coarse_channels": coarse_channels or group_size}
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.conv1 = nn.Conv2d(in_chans, widths[0], kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.act1 = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        factor = options.get("expansion", 4) if block == "bottleneck" else 1
        channels, reduction = widths[0], stride * stride
        self.stages: list[str] = []
        self.feature_info: list[dict[str, Any]] = []
        for index, (width, repeat, stride) in enumerate(zip(widths, repeats, strides, strict=True), 1):
            blocks = [MGICBlock(channels, factor * width, stride, **options)]
            blocks += [MGICBlock(factor * width, factor * width, **options) for _ in range(repeat - 1)]
            channels, reduction, name = factor * width, reduction * stride, f"layer{index}"
            self.add_module(name, nn.Sequential(*blocks))
            self.stages.append(name)
            self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": name})
        self.num_features = self.head_hidden_size = channels
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map, (N, num_features, H', W')."""
        x_NCHW = self.maxpool(self.act1(self.bn1(self.conv1(x_NCHW))))
        for name in self.stages:
            x_NCHW = self.get_submodule(name)(x_NCHW)
        return x_NCHW


_IMAGENET = [f"mgic_resnet{depth}_g{size}" for depth in (34, 50) for size in (16, 32, 64)]
_CIFAR = ["cifar_mgic_resnet16", "cifar_mgic_resnet20", "cifar_mgic_resnet56"]


# the standard deviation is that of the official driver
_CIFAR_CFG = cifar_cfg("conv1", "linear") | {"std": (0.2023, 0.1994, 0.2010)}

default_cfgs = generate_default_cfgs(
    {
        **{f"{name}.untrained": imagenet_cfg("conv1", "linear") for name in _IMAGENET},
        **{f"{name}.untrained": _CIFAR_CFG for name in _CIFAR},
    }
)


def _build(name: str, pretrained: bool, arguments: dict[str, Any], **shape: Any) -> MGICResNet:
    return build_model_with_cfg(MGICResNet, name, pretrained, **(shape | arguments))


def _imagenet(name: str, pretrained: bool, arguments: dict[str, Any]) -> MGICResNet:
    block = "basic" if "34" in name else "bottleneck"
    return _build(name, pretrained, arguments, block=block, group_size=int(name.rpartition("_g")[2]))


def _cifar(name: str, pretrained: bool, arguments: dict[str, Any]) -> MGICResNet:
    repeats = ((int(name.removeprefix("cifar_mgic_resnet")) - 2) // 6,) * 3
    return _build(name, pretrained, arguments, widths=(16, 32, 64), repeats=repeats, strides=(1, 2, 2), stem="cifar")


@register_model
def mgic_resnet34_g16(pretrained: bool = False, **arguments: Any) -> MGICResNet:
    """MGIC-ResNet-34, groups of 16."""
    return _imagenet("mgic_resnet34_g16", pretrained, arguments)


@register_model
def mgic_resnet34_g32(pretrained: bool = False, **arguments: Any) -> MGICResNet:
    """MGIC-ResNet-34, groups of 32."""
    return _imagenet("mgic_resnet34_g32", pretrained, arguments)


@register_model
def mgic_resnet34_g64(pretrained: bool = False, **arguments: Any) -> MGICResNet:
    """MGIC-ResNet-34, groups of 64."""
    return _imagenet("mgic_resnet34_g64", pretrained, arguments)


@register_model
def mgic_resnet50_g16(pretrained: bool = False, **arguments: Any) -> MGICResNet:
    """MGIC-ResNet-50, groups of 16."""
    return _imagenet("mgic_resnet50_g16", pretrained, arguments)


@register_model
def mgic_resnet50_g32(pretrained: bool = False, **arguments: Any) -> MGICResNet:
    """MGIC-ResNet-50, groups of 32."""
    return _imagenet("mgic_resnet50_g32", pretrained, arguments)


@register_model
def mgic_resnet50_g64(pretrained: bool = False, **arguments: Any) -> MGICResNet:
    """MGIC-ResNet-50, groups of 64."""
    return _imagenet("mgic_resnet50_g64", pretrained, arguments)


@register_model
def cifar_mgic_resnet16(pretrained: bool = False, **arguments: Any) -> MGICResNet:
    """The defaults of the official driver: widths 32, 64, 128, 256, stages of 1, 2, 2, 2 blocks, groups of 32."""
    shape = {"widths": (32, 64, 128, 256), "repeats": (1, 2, 2, 2), "group_size": 32, "stem": "cifar"}
    return _build("cifar_mgic_resnet16", pretrained, arguments, **shape)


@register_model
def cifar_mgic_resnet20(pretrained: bool = False, **arguments: Any) -> MGICResNet:
    """ResNet-20 for CIFAR with MGIC blocks, groups of 16."""
    return _cifar("cifar_mgic_resnet20", pretrained, arguments)


@register_model
def cifar_mgic_resnet56(pretrained: bool = False, **arguments: Any) -> MGICResNet:
    """ResNet-56 for CIFAR with MGIC blocks, groups of 16."""
    return _cifar("cifar_mgic_resnet56", pretrained, arguments)
