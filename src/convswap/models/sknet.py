"""The networks of Selective Kernel Networks (arXiv:1903.06586), registered with timm.

`sknet50` and `sknet101` are ResNeXt-50 and -101 32x4d with the grouped 3x3 convolution of every bottleneck replaced
by SK[2, 32, 16]; `sknet101_released` is the 101-layer network of the official prototxt, whose attention in the
second stage has 16 channels, against the paper's own rule of at least 32. `cifar_sknet29` is ResNeXt-29 16x32d with
SK[2, 32, 16]. (The convolutions of two branches with 32 groups cost as much as those of one with 16 groups.)

timm's `skresnext50_32x4d` is `sknet50` under other parameter names. timm's `skresnet18`, `skresnet34` and `skresnet50`
split the input channels over the branches, which makes another unit.

Importing this module imports timm; afterwards `timm.create_model("sknet50")` works.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import UsageError, check_choice
from ..units import SelectiveKernelConv2d
from .classifier import Classifier, cifar_cfg, draw_small, imagenet_cfg


class SKBottleneck(nn.Module):
    """`relu(BN(conv1x1(SK(relu(BN(conv1x1(x)))))) + shortcut(x))`: nothing lies between the unit and the expansion.

    Args:
        in_channels: channels of the input.
        width: channels of the unit in the middle.
        out_channels: channels of the output.
        stride: stride of the unit and of the projection (1x1 convolution and BatchNorm) that is the shortcut where the
            shape changes.
        options: options of the unit. `groups` are those of its branches.
    """

    def __init__(self, in_channels: int, width: int, out_channels: int, stride: int = 1, **options: Any):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU()
        self.conv2 = SelectiveKernelConv2d(width, width, 3, stride, 1, bias=False, **options)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.act3 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride), rounded up."""
        residual = self.conv2(self.act1(self.bn1(self.conv1(x_NCHW))))
        residual = self.bn3(self.conv3(residual))
        return self.act3(residual + self.shortcut(x_NCHW))


class SKNet(Classifier):
    """A network of selective kernel bottlenecks.

    Convolutions start N(0, 2/fan_in), the attention's and the classifier's N(0, 0.01^2), as in the official solver.

    Args:
        repeats: blocks in each stage. Every stage but the first halves the image.
        widths: widths of the units, by stage.
        outputs: output channels of the stages.
        groups, branches, reduction: G, M and r of SK[M, G, r].
        min_channels: the least width of the attention: one number, or one for each stage.
        stem: `"imagenet"` (7x7 convolution of stride 2 and a 3x3 max pool of stride 2) or `"cifar"` (3x3, stride 1).
        pool: `"symmetric"`, PyTorch's usual max pool with a margin of one pixel, or `"ceil"`, Caffe's, whose windows
            start at the corner and may end outside. The official weights were trained with `"ceil"`. The sizes are the
            same, but the grid is shifted by one pixel.
        norm_momentum: momentum of every BatchNorm, by default the official 0.05.
        num_classes: outputs of the classifier; 0 leaves it out and returns the pooled features.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to leave the feature map unpooled (then without classifier).
        drop_rate: dropout before the classifier while training.

    Raises:
        ValueError: an option is not allowed, or the stages' lists differ in length.
    """

    def __init__(
        self,
        repeats: Sequence[int] = (3, 4, 6, 3),
        widths: Sequence[int] = (128, 256, 512, 1024),
        outputs: Sequence[int] = (256, 512, 1024, 2048),
        *,
        groups: int = 32,
        branches: int = 2,
        reduction: int = 16,
        min_channels: int | Sequence[int] = 32,
        stem: str = "imagenet",
        pool: str = "symmetric",
        norm_momentum: float = 0.05,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ):
        super().__init__()
        check_choice("stem", stem, ("imagenet", "cifar"))
        check_choice("pool", pool, ("symmetric", "ceil"))
        floors = [min_channels] * len(repeats) if isinstance(min_channels, int) else list(min_channels)
        if not len(repeats) == len(widths) == len(outputs) == len(floors) > 0:
            raise UsageError(
                f"repeats={repeats}, widths={widths}, outputs={outputs} and min_channels={min_channels} must be "
                "equally long (min_channels may be one number)"
            )
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.conv1 = nn.Conv2d(in_chans, 64, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.act1 = nn.ReLU()
        self.maxpool: nn.Module = nn.Identity()
        if stem == "imagenet":
            self.maxpool = nn.MaxPool2d(3, 2, 1) if pool == "symmetric" else nn.MaxPool2d(3, 2, ceil_mode=True)
        for module in self.modules():
            _initialise(module)
        channels, side = 64, 4 if stem == "imagenet" else 1
        self.stages: list[str] = []
        self.feature_info: list[dict[str, Any]] = []
        for index, (repeat, width, output, floor) in enumerate(zip(repeats, widths, outputs, floors, strict=True)):
            options = {"groups": groups, "branches": branches, "reduction": reduction, "min_channels": floor}
            stride = 1 if index == 0 else 2
            blocks = [SKBottleneck(channels, width, output, stride, **options)]
            blocks += [SKBottleneck(output, width, output, **options) for _ in range(repeat - 1)]
            channels, side, name = output, side * stride, f"layer{index + 1}"
            self.add_module(name, nn.Sequential(*blocks))
            self.stages.append(name)
            self.feature_info.append({"num_chs": channels, "reduction": side, "module": name})
        self.num_features = self.head_hidden_size = channels
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, SKBottleneck):
                for part in (module.conv1, module.conv3, *module.shortcut.modules()):
                    _initialise(part)
            elif isinstance(module, nn.BatchNorm2d):
                module.momentum = norm_momentum

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map, (N, num_features, H', W')."""
        x_NCHW = self.maxpool(self.act1(self.bn1(self.conv1(x_NCHW))))
        for name in self.stages:
            x_NCHW = self.get_submodule(name)(x_NCHW)
        return x_NCHW

    def init_classifier(self, linear: nn.Linear) -> None:
        """Weights N(0, 0.01), as in the official network."""
        draw_small(linear)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


_IMAGENET_CFG = imagenet_cfg("conv1", "linear")
_CIFAR_CFG = cifar_cfg("conv1", "linear") | {"std": (0.2023, 0.1994, 0.2010)}

default_cfgs = generate_default_cfgs(
    {
        **{
            f"{name}.untrained": imagenet_cfg("conv1", "linear")
            for name in ("sknet50", "sknet101", "sknet101_released")
        },
        "cifar_sknet29.untrained": _CIFAR_CFG,
    }
)


def _build(name: str, pretrained: bool, defaults: dict[str, Any], arguments: dict[str, Any]) -> SKNet:
    return build_model_with_cfg(SKNet, name, pretrained, **(defaults | arguments))


@register_model
def sknet50(pretrained: bool = False, **arguments: Any) -> SKNet:
    """SKNet-50: 27,479,784 parameters."""
    return _build("sknet50", pretrained, {}, arguments)


@register_model
def sknet101(pretrained: bool = False, **arguments: Any) -> SKNet:
    """SKNet-101 by the paper's rule d = max(C/16, 32)."""
    return _build("sknet101", pretrained, {"repeats": (3, 4, 23, 3)}, arguments)


@register_model
def sknet101_released(pretrained: bool = False, **arguments: Any) -> SKNet:
    """SKNet-101 of the official prototxt, d = 16 in the second stage: 48,686,760 parameters."""
    defaults = {"repeats": (3, 4, 23, 3), "min_channels": (32, 16, 32, 32)}
    return _build("sknet101_released", pretrained, defaults, arguments)


@register_model
def cifar_sknet29(pretrained: bool = False, **arguments: Any) -> SKNet:
    """SKNet-29 for images of 32x32 pixels: ResNeXt-29 16x32d with SK[2, 32, 16], 28,256,394 parameters."""
    stages = {"repeats": (3, 3, 3), "widths": (512, 1024, 2048), "outputs": (256, 512, 1024)}
    defaults = {**stages, "stem": "cifar", "norm_momentum": 0.1, "num_classes": 10}
    return _build("cifar_sknet29", pretrained, defaults, arguments)
