"""RMNeXt of RMNet (arXiv:2111.00687): wide, grouped bottlenecks whose shortcut can be removed cheaply, for timm.

A block of `out` maps has `mid = (expand - 1) out` channels inside: a 1x1 convolution to mid, a 3x3 convolution in
groups of a fixed number of channels, a 1x1 convolution to out, each with BatchNorm and ReLU. They stand beside a
shortcut (1x1 with BatchNorm where the shape changes). `convswap.remove_residuals` widens the inside by the block's
input, which fills further groups: a plain chain for about a fifth more multiplications.

The stem is two RepVGG blocks with stride 2, the widths of the stages are 64, 128, 256 and 512 maps. In
`rmnext50_64x5_g32`, 64 is the first width, 5 is expand, and 32 the channels of a group, which double with the width.
Convolutions start normal with deviation `sqrt(2 / (k k out))`, and the last BatchNorm of a block at zero.

Importing this module imports timm; afterwards `timm.create_model("rmnext50_64x5_g32")` works.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import UsageError, check_whole
from .classifier import Classifier, imagenet_cfg
from .rep_layers import RepBlock


class RMNeXtBlock(nn.Module):
    """(N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride)).

    Args:
        in_channels, out_channels, stride: the block's shape.
        expand: the channels inside are `(expand - 1) out_channels`.
        group_channels: channels of a group of the 3x3 convolution.

    Raises:
        ValueError: the channels inside do not fill whole groups.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expand: int, group_channels: int) -> None:
        super().__init__()
        inside = (expand - 1) * out_channels
        if inside % group_channels:
            raise UsageError(
                f"group_channels={group_channels} is not allowed; it must divide the {inside} channels inside a block"
            )
        self.conv1 = nn.Conv2d(in_channels, inside, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inside)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(inside, inside, 3, stride, 1, groups=inside // group_channels, bias=False)
        self.bn2 = nn.BatchNorm2d(inside)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(inside, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.act3 = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Add the trunk to the shortcut."""
        y_NCHW = self.act1(self.bn1(self.conv1(x_NCHW)))
        y_NCHW = self.act2(self.bn2(self.conv2(y_NCHW)))
        y_NCHW = self.bn3(self.conv3(y_NCHW))
        return self.act3(y_NCHW + (x_NCHW if self.downsample is None else self.downsample(x_NCHW)))


class RMNeXt(Classifier):
    """A stem of two RepVGG blocks and four stages of `RMNeXtBlock`: (N, in_chans, H, W) -> (N, num_classes).

    Args:
        layers: the blocks of each stage.
        width: maps of the first stage; each further stage has twice as many.
        expand: channels inside a block, in widths, plus one.
        group_channels: channels of a group in the first stage; they double too.
        num_classes: outputs of the classifier; 0 leaves it out and returns the features.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to leave the feature map unpooled (then without classifier).
        drop_rate: dropout before the classifier while training.

    Raises:
        ValueError: an argument is not allowed.
    """

    classifier_name = "fc"
    can_checkpoint = True

    def __init__(
        self,
        layers: tuple[int, ...],
        *,
        width: int = 64,
        expand: int = 5,
        group_channels: int = 32,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("width", width), ("group_channels", group_channels)):
            check_whole(name, value)
        check_whole("expand", expand, least=2)
        self.stem = nn.Sequential(RepBlock(in_chans, 64, 2), RepBlock(64, 64, 2))
        self.stages, channels = nn.Sequential(), 64
        self.feature_info: list[dict[str, Any]] = []
        for index, blocks in enumerate(layers):
            stage, maps = nn.Sequential(), width << index
            for number in range(blocks):
                stride = 2 if index and not number else 1
                stage.append(RMNeXtBlock(channels, maps, stride, expand, group_channels << index))
                channels = maps
            self.stages.append(stage)
            self.feature_info.append({"num_chs": maps, "reduction": 4 << index, "module": f"stages.{index}"})
        self.num_features = self.head_hidden_size = channels
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, RMNeXtBlock):
                nn.init.zeros_(module.bn3.weight)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map, (N, 8 width, H/32, W/32)."""
        x_NCHW = self.run_stage(self.stem, x_NCHW)
        for stage in self.stages:
            x_NCHW = self.run_stage(stage, x_NCHW)
        return x_NCHW


_LAYERS = {41: (2, 3, 5, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_FORMS = ((41, 5, 16), (50, 5, 32), (50, 6, 32), (101, 6, 16), (152, 6, 32))  # depth, expand, channels of a group

_CFG = imagenet_cfg("stem.0.conv33", "fc")

default_cfgs = generate_default_cfgs(
    {f"rmnext{depth}_64x{expand}_g{group}.untrained": _CFG for depth, expand, group in _FORMS}
)


def _build(depth: int, expand: int, group: int, pretrained: bool, arguments: dict[str, Any]) -> RMNeXt:
    own: dict[str, Any] = {"layers": _LAYERS[depth], "expand": expand, "group_channels": group}
    return build_model_with_cfg(RMNeXt, f"rmnext{depth}_64x{expand}_g{group}", pretrained, **(own | arguments))


@register_model
def rmnext41_64x5_g16(pretrained: bool = False, **arguments: Any) -> RMNeXt:
    """RMNeXt-41, 4 x 64 channels inside, in groups of 16: 20,016,744 parameters, as a plain chain 23,975,592."""
    return _build(41, 5, 16, pretrained, arguments)


@register_model
def rmnext50_64x5_g32(pretrained: bool = False, **arguments: Any) -> RMNeXt:
    """RMNeXt-50, 4 x 64 channels inside, in groups of 32: 32,804,328 parameters, as a plain chain 39,567,848."""
    return _build(50, 5, 32, pretrained, arguments)


@register_model
def rmnext50_64x6_g32(pretrained: bool = False, **arguments: Any) -> RMNeXt:
    """RMNeXt-50, 5 x 64 channels inside, in groups of 32: 40,820,968 parameters, as a plain chain 47,576,936."""
    return _build(50, 6, 32, pretrained, arguments)


@register_model
def rmnext101_64x6_g16(pretrained: bool = False, **arguments: Any) -> RMNeXt:
    """RMNeXt-101, 5 x 64 channels inside, in groups of 16: 50,445,032 parameters, as a plain chain 59,454,568."""
    return _build(101, 6, 16, pretrained, arguments)


@register_model
def rmnext152_64x6_g32(pretrained: bool = False, **arguments: Any) -> RMNeXt:
    """RMNeXt-152, 5 x 64 channels inside, in groups of 32."""
    return _build(152, 6, 32, pretrained, arguments)
