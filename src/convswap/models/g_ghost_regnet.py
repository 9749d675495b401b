"""G-Ghost-RegNetX (arXiv:2201.03297): RegNetX whose deeper stages are G-Ghost stages, registered with timm.

`g_ghost_regnetx_002` to `_320` have the depths, widths and group widths of RegNetX at 0.2 to 32 GFLOPs. The stem is a
strided 3x3 convolution without pooling, all four stages halve the map. Stage 1 is always plain; a later one is a
G-Ghost stage if it has more than two blocks. Parameters are named as in the official code, whose weights load strictly.

Importing this module imports timm; afterwards `timm.create_model("g_ghost_regnetx_032")` works.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import UsageError
from ..marks import with_marks
from ..units.ghost.g_ghost import FEWEST_BLOCKS, GGhostStage, RegNetXBlock
from .classifier import Classifier, imagenet_cfg
from .state import unwrap_state_dict

_STEM = 32

SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {  # depths, widths, group width
    "002": ((1, 1, 4, 7), (24, 56, 152, 368), 8),
    "004": ((1, 2, 7, 12), (32, 64, 160, 384), 16),
    "006": ((1, 3, 5, 7), (48, 96, 240, 528), 24),
    "008": ((1, 3, 7, 5), (64, 128, 288, 672), 16),
    "016": ((2, 4, 10, 2), (72, 168, 408, 912), 24),
    "032": ((2, 6, 15, 2), (96, 192, 432, 1008), 48),
    "040": ((2, 5, 14, 2), (80, 240, 560, 1360), 40),
    "064": ((2, 4, 10, 1), (168, 392, 784, 1624), 56),
    "080": ((2, 5, 15, 1), (80, 240, 720, 1920), 120),
    "120": ((2, 5, 11, 1), (224, 448, 896, 2240), 112),
    "160": ((2, 6, 13, 1), (256, 512, 896, 2048), 128),
    "320": ((2, 7, 13, 1), (336, 672, 1344, 2520), 168),
}


class GGhostRegNet(Classifier):
    """A RegNetX with G-Ghost stages: stem, four stages, pooling, dropout, classifier.

    Args:
        depths: blocks in each of the four stages.
        widths: their channels.
        group_width: channels of a group in the full-width blocks. It divides the width of every G-Ghost stage.
        cheap_ratio, mix: options of the G-Ghost stages, see `convswap.units.GGhostStage`.
        num_classes: outputs of the classifier; 0 leaves it out and returns the pooled features.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to leave the feature map unpooled (then without classifier).
        drop_rate: dropout before the classifier while training.

    Raises:
        ValueError: there are not four depths and widths, or the group width does not fit a stage.
    """

    classifier_name = "fc"

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        group_width: int,
        *,
        cheap_ratio: float = 0.5,
        mix: bool = True,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.2,
    ):
        super().__init__()
        for name, values in (("depths", depths), ("widths", widths)):
            if len(values) != 4:
                raise UsageError(f"{name}={values!r} is not allowed; give four numbers, one per stage")
        self.num_features = self.head_hidden_size = widths[-1]
        self.conv1 = nn.Conv2d(in_chans, _STEM, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.act1 = nn.ReLU(inplace=True)
        channels = _STEM
        stages: list[nn.Module] = []
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if index == 0 or depth < FEWEST_BLOCKS:
                stages.append(_plain_stage(channels, width, depth, group_width))
            else:
                ghost: dict[str, Any] = {"depth": depth, "cheap_ratio": cheap_ratio, "group_width": group_width}
                stages.append(GGhostStage(channels, width, 2, mix=mix, **ghost))
            channels = width
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.feature_info = [
            {"num_chs": width, "reduction": 4 << index, "module": f"layer{index + 1}"}
            for index, width in enumerate(widths)
        ]
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map, (N, widths[-1], H/32, W/32)."""
        x_NCHW = self.act1(self.bn1(self.conv1(x_NCHW)))
        return self.layer4(self.layer3(self.layer2(self.layer1(x_NCHW))))


def _plain_stage(in_channels: int, width: int, depth: int, group_width: int) -> nn.Sequential:
    first = RegNetXBlock(in_channels, width, 2, group_width=group_width)
    return nn.Sequential(first, *(RegNetXBlock(width, width, group_width=group_width) for _ in range(depth - 1)))


_CFG = imagenet_cfg("conv1", "fc")

default_cfgs = generate_default_cfgs({f"g_ghost_regnetx_{size}.untrained": _CFG for size in SIZES})


def _build(size: str, pretrained: bool, arguments: dict[str, Any]) -> GGhostRegNet:
    depths, widths, group_width = SIZES[size]
    given = {"depths": depths, "widths": widths, "group_width": group_width, **arguments}
    return build_model_with_cfg(
        GGhostRegNet,
        f"g_ghost_regnetx_{size}",
        pretrained,
        pretrained_filter_fn=lambda state, model: with_marks(model, unwrap_state_dict(state)),
        **given,
    )


@register_model
def g_ghost_regnetx_002(pretrained: bool = False, **arguments: Any) -> GGhostRegNet:
    """G-Ghost-RegNetX at the size 0.2 GFLOPs of RegNetX: 1,825,440 parameters, 130.9 MMACs."""
    return _build("002", pretrained, arguments)


@register_model
def g_ghost_regnetx_004(pretrained: bool = False, **arguments: Any) -> GGhostRegNet:
    """G-Ghost-RegNetX at the size 0.4 GFLOPs of RegNetX: 2,884,456 parameters, 221.2 MMACs."""
    return _build("004", pretrained, arguments)


@register_model
def g_ghost_regnetx_006(pretrained: bool = False, **arguments: Any) -> GGhostRegNet:
    """G-Ghost-RegNetX at the size 0.6 GFLOPs of RegNetX: 4,029,776 parameters, 389.8 MMACs."""
    return _build("006", pretrained, arguments)


@register_model
def g_ghost_regnetx_008(pretrained: bool = False, **arguments: Any) -> GGhostRegNet:
    """G-Ghost-RegNetX at the size 0.8 GFLOPs of RegNetX: 5,248,328 parameters, 528.6 MMACs."""
    return _build("008", pretrained, arguments)


@register_model
def g_ghost_regnetx_016(pretrained: bool = False, **arguments: Any) -> GGhostRegNet:
    """G-Ghost-RegNetX at the size 1.6 GFLOPs of RegNetX: 7,109,660 parameters, 1.021 GMACs."""
    return _build("016", pretrained, arguments)


@register_model
def g_ghost_regnetx_032(pretrained: bool = False, **arguments: Any) -> GGhostRegNet:
    """G-Ghost-RegNetX at the size 3.2 GFLOPs of RegNetX: 10,511,000 parameters, 1.802 GMACs."""
    return _build("032", pretrained, arguments)


@register_model
def g_ghost_regnetx_040(pretrained: bool = False, **arguments: Any) -> GGhostRegNet:
    """G-Ghost-RegNetX at the size 4 GFLOPs of RegNetX: 15,726,268 parameters, 2.228 GMACs."""
    return _build("040", pretrained, arguments)


@register_model
def g_ghost_regnetx_064(pretrained: bool = False, **arguments: Any) -> GGhostRegNet:
    """G-Ghost-RegNetX at the size 6.4 GFLOPs of RegNetX: 17,993,748 parameters, 4.055 GMACs."""
    return _build("064", pretrained, arguments)


@register_model
def g_ghost_regnetx_080(pretrained: bool = False, **arguments: Any) -> GGhostRegNet:
    """G-Ghost-RegNetX at the size 8 GFLOPs of RegNetX: 24,586,928 parameters, 4.150 GMACs."""
    return _build("080", pretrained, arguments)


@register_model
def g_ghost_regnetx_120(pretrained: bool = False, **arguments: Any) -> GGhostRegNet:
    """G-Ghost-RegNetX at the size 12 GFLOPs of RegNetX: 30,627,208 parameters, 7.378 GMACs."""
    return _build("120", pretrained, arguments)


@register_model
def g_ghost_regnetx_160(pretrained: bool = False, **arguments: Any) -> GGhostRegNet:
    """G-Ghost-RegNetX at the size 16 GFLOPs of RegNetX: 32,381,704 parameters, 8.997 GMACs."""
    return _build("160", pretrained, arguments)


@register_model
def g_ghost_regnetx_320(pretrained: bool = False, **arguments: Any) -> GGhostRegNet:
    """G-Ghost-RegNetX at the size 32 GFLOPs of RegNetX: 62,815,448 parameters, 17.16 GMACs."""
    return _build("320", pretrained, arguments)
