"""MobileNetV3 with multigrid-in-channels blocks (arXiv:2011.09128), registered with timm.

`mgic_mobilenetv3_large_g8`, `_g16`, `_g32`, `_g64` and `mgic_mobilenetv3_small_g8` to `_g64` have the rows of
MobileNetV3's tables (arXiv:1905.02244), each an `MGICBlock` of inverted residuals of that group size (and coarsest
width). By default stem and head are those of the official code, which are made for CIFAR: see `MGICMobileNetV3`.
The sizes are those of the official code; the paper's own tables were not available.

Importing this module imports timm; afterwards `timm.create_model("mgic_mobilenetv3_large_g16")` works.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import UsageError, check_choice
from ..units import MGICBlock
from .classifier import Classifier, draw_small, imagenet_cfg


class Row(NamedTuple):
    """One row of MobileNetV3's tables 1 and 2."""

    kernel_size: int
    expanded: int
    channels: int
    squeeze_excite: bool
    hardswish: bool
    stride: int


LARGE = (
    (Row(3, 16, 16, False, False, 1),),
    (Row(3, 64, 24, False, False, 2), Row(3, 72, 24, False, False, 1)),
    (Row(5, 72, 40, True, False, 2), Row(5, 120, 40, True, False, 1), Row(5, 120, 40, True, False, 1)),
    (
        Row(3, 240, 80, False, True, 2),
        Row(3, 200, 80, False, True, 1),
        Row(3, 184, 80, False, True, 1),
        Row(3, 184, 80, False, True, 1),
    ),
    (Row(3, 480, 112, True, True, 1), Row(3, 672, 112, True, True, 1)),
    (Row(5, 672, 160, True, True, 2), Row(5, 960, 160, True, True, 1), Row(5, 960, 160, True, True, 1)),
)
SMALL = (
    (Row(3, 16, 16, True, False, 2),),
    (Row(3, 72, 24, False, False, 2), Row(3, 88, 24, False, False, 1)),
    (Row(5, 96, 40, True, True, 2), Row(5, 240, 40, True, True, 1), Row(5, 240, 40, True, True, 1)),
    (Row(5, 120, 48, True, True, 1), Row(5, 144, 48, True, True, 1)),
    (Row(5, 288, 96, True, True, 2), Row(5, 576, 96, True, True, 1), Row(5, 576, 96, True, True, 1)),
)
_TABLES = {"large": (LARGE, 1280), "small": (SMALL, 1024)}


class MGICMobileNetV3(Classifier):
    """A MobileNetV3 whose inverted residuals are MGIC blocks: stem, stages, 1x1 convolution, expansion, classifier.

    Args:
        size: `"large"` or `"small"`.
        group_size, coarse_channels: options of every block. `coarse_channels` is `group_size` by default.
        stem: `"code"`, the official 1x1 convolution of stride 1 with ReLU, for images of about 32 pixels (at 224
            pixels all later layers see four times the usual area); or `"imagenet"`, MobileNetV3's 3x3 convolution of
            stride 2 with hard-swish.
        head: `"code"`, the official order: expand every pixel, ReLU, global *max* pool, classify; or `"imagenet"`,
            MobileNetV3's: global average pool, expand, hard-swish, classify.
        num_classes: outputs of the classifier; 0 leaves it out and returns the expanded features.
        in_chans: channels of the images.
        global_pool: `""` leaves the last feature map unpooled, without head and classifier. Any other name of a pool
            means the head's own pool.
        drop_rate: dropout before the classifier while training.
        options: the other options of `MGICBlock`, such as `coarsest`. `quirks` is `"code"` by default.

    Raises:
        ValueError: an option is not allowed.
    """

    classifier_name = "classifier"

    def __init__(
        self,
        size: str = "large",
        *,
        group_size: int = 16,
        coarse_channels: int | None = None,
        stem: str = "code",
        head: str = "code",
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "head",
        drop_rate: float = 0.0,
        **options: Any,
    ):
        super().__init__()
        check_choice("size", size, tuple(_TABLES))
        check_choice("stem", stem, ("code", "imagenet"))
        check_choice("head", head, ("code", "imagenet"))
        options = {"quirks": "code"} | options
        options |= {"block": "mobilenet", "group_size": group_size, "coarse_channels": coarse_channels or group_size}
        table, self.num_features = _TABLES[size]
        kernel, reduction = (1, 1) if stem == "code" else (3, 2)
        self.conv_stem = nn.Conv2d(in_chans, 16, kernel, reduction, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = nn.ReLU() if stem == "code" else nn.Hardswish()
        channels = 16
        stages: list[nn.Module] = []
        self.feature_info: list[dict[str, Any]] = []
        for index, rows in enumerate(table):
            stages.append(_stage(channels, rows, options))
            channels, reduction = rows[-1].channels, reduction * rows[0].stride
            self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": f"blocks.{index}"})
        last = nn.Conv2d(channels, channels, 1, bias=False)
        stages.append(nn.Sequential(last, nn.BatchNorm2d(channels), nn.ReLU()))
        self.blocks = nn.Sequential(*stages)
        self.head = head
        self.head_hidden_size = self.num_features
        self.conv_head = nn.Conv2d(channels, self.num_features, 1)
        self.act2 = nn.ReLU() if head == "code" else nn.Hardswish()
        self.drop = nn.Dropout(drop_rate)
        for conv in (self.conv_stem, last, self.conv_head):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.conv_head.bias)  # type: ignore[arg-type]
        self.reset_classifier(num_classes, global_pool)

    def check_pool(self, num_classes: int, global_pool: str | None) -> None:
        """Set `global_pool` unless it is None, and refuse classes without pooling."""
        if global_pool is not None:
            check_choice("global_pool", global_pool, ("head", "avg", "max", ""))
            self.global_pool = global_pool
        if num_classes and not self.global_pool:
            raise UsageError(f"num_classes={num_classes} needs a pool; a network with global_pool='' has num_classes=0")

    def init_classifier(self, linear: nn.Linear) -> None:
        """Weights N(0, 0.01), as in the official network."""
        draw_small(linear)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map, (N, 160 or 96, H', W')."""
        return self.blocks(self.act1(self.bn1(self.conv_stem(x_NCHW))))

    def forward_head(self, x_NCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool, expand and classify a feature map; `pre_logits` stops before the classifier."""
        if not self.global_pool:
            return x_NCHW
        if self.head == "code":
            x_NF = self.act2(self.conv_head(x_NCHW)).amax((2, 3))
        else:
            x_NF = self.act2(self.conv_head(x_NCHW.mean((2, 3), keepdim=True))).flatten(1)
        x_NF = self.drop(x_NF)
        return x_NF if pre_logits else self.get_classifier()(x_NF)


def _stage(channels: int, rows: tuple[Row, ...], options: dict[str, Any]) -> nn.Sequential:
    blocks = []
    for row in rows:
        details: dict[str, Any] = {
            "expansion": row.expanded / channels,
            "kernel_size": row.kernel_size,
            "squeeze_excite": row.squeeze_excite,
            "activation": "hardswish" if row.hardswish else "relu",
        }
        blocks.append(MGICBlock(channels, row.channels, row.stride, **details, **options))
        channels = row.channels
    return nn.Sequential(*blocks)


_SIZES = (8, 16, 32, 64)
_CFG = imagenet_cfg("conv_stem", "classifier") | {"pool_size": (14, 14)}
default_cfgs = generate_default_cfgs(
    {f"mgic_mobilenetv3_{size}_g{group}.untrained": _CFG for size in _TABLES for group in _SIZES}
)


def _build(size: str, group_size: int, pretrained: bool, arguments: dict[str, Any]) -> MGICMobileNetV3:
    name = f"mgic_mobilenetv3_{size}_g{group_size}"
    shape: dict[str, Any] = {"size": size, "group_size": group_size}
    return build_model_with_cfg(MGICMobileNetV3, name, pretrained, **(shape | arguments))


@register_model
def mgic_mobilenetv3_large_g8(pretrained: bool = False, **arguments: Any) -> MGICMobileNetV3:
    """MGIC-MobileNetV3 large, groups of 8."""
    return _build("large", 8, pretrained, arguments)


@register_model
def mgic_mobilenetv3_large_g16(pretrained: bool = False, **arguments: Any) -> MGICMobileNetV3:
    """MGIC-MobileNetV3 large, groups of 16."""
    return _build("large", 16, pretrained, arguments)


@register_model
def mgic_mobilenetv3_large_g32(pretrained: bool = False, **arguments: Any) -> MGICMobileNetV3:
    """MGIC-MobileNetV3 large, groups of 32."""
    return _build("large", 32, pretrained, arguments)


@register_model
def mgic_mobilenetv3_large_g64(pretrained: bool = False, **arguments: Any) -> MGICMobileNetV3:
    """MGIC-MobileNetV3 large, groups of 64."""
    return _build("large", 64, pretrained, arguments)


@register_model
def mgic_mobilenetv3_small_g8(pretrained: bool = False, **arguments: Any) -> MGICMobileNetV3:
    """MGIC-MobileNetV3 small, groups of 8."""
    return _build("small", 8, pretrained, arguments)


@register_model
def mgic_mobilenetv3_small_g16(pretrained: bool = False, **arguments: Any) -> MGICMobileNetV3:
    """MGIC-MobileNetV3 small, groups of 16."""
    return _build("small", 16, pretrained, arguments)


@register_model
def mgic_mobilenetv3_small_g32(pretrained: bool = False, **arguments: Any) -> MGICMobileNetV3:
    """MGIC-MobileNetV3 small, groups of 32."""
    return _build("small", 32, pretrained, arguments)


@register_model
def mgic_mobilenetv3_small_g64(pretrained: bool = False, **arguments: Any) -> MGICMobileNetV3:
    """MGIC-MobileNetV3 small, groups of 64."""
    return _build("small", 64, pretrained, arguments)
