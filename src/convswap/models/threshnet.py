"""ThreshNet (arXiv:2201.03013): dense connections in shallow blocks, harmonic ones in deep blocks, for timm.

A dense layer adds 32 maps to its input: `cat(x, conv3x3(relu(BN(conv1x1(relu(BN(x)))))))` with 128 maps between. A
harmonic block is that of HarDNet with ReLU in place of ReLU6. Before each block a quantity is compared with a
threshold: from the first block that exceeds the threshold on, all blocks are harmonic. The paper's figure names
neither. Its two networks fit "input channels above 272" (any number from 256 to 287 does), so this is what
`connection="auto"` decides by. The networks are the authors': their stem divides the size by four, made for large
images, though they report accuracy on CIFAR-10. `stem_stride=1` keeps the size in the stem.

ThreshNet-28 stands in the paper's table only. Its layers are not published, so it is not here.

Importing this module imports timm; afterwards `timm.create_model("threshnet79")` works.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import UsageError, check_choice, check_whole
from .classifier import Classifier, cifar_cfg
from .hardnet import ConvLayer, HarmonicBlock

GROWTH, BOTTLENECK, MULTIPLIER = 32, 128, 1.7
CONNECTIONS = ("dense", "harmonic")
_HARMONIC_GROWTH = (14, 16, 20, 40, 160)  # blocks 4 and 5: ThreshNet's; 1 to 3: HarDNet-68's, for `connection`
_HALVE = (True, True, False, True, False)  # whether the transition behind a block pools


class ThreshLayer(nn.Module):
    """(N, C, H, W) -> (N, C + maps, H, W): the input, and new maps behind a bottleneck."""

    def __init__(self, channels: int, maps: int = GROWTH):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, BOTTLENECK, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK)
        self.conv2 = nn.Conv2d(BOTTLENECK, maps, 3, padding=1, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The input with the new maps behind it."""
        h_NCHW = self.conv1(F.relu(self.norm1(x_NCHW), inplace=True))
        return torch.cat([x_NCHW, self.conv2(F.relu(self.norm2(h_NCHW), inplace=True))], 1)


class ThreshNet(Classifier):
    """A stem, five blocks that are dense or harmonic, each with a 1x1 transition, and a linear classifier.

    Args:
        layers: the layers of each block.
        transitions: the maps behind each block.
        connection: `"auto"` (see `threshold_channels`), `"dense"` or `"harmonic"` for all blocks, or one of the two
            for each block.
        threshold_channels: with `"auto"`, a block with more input channels than this is harmonic, and so are all
            blocks behind it.
        stem_stride: stride of the first convolution and of the pooling behind the stem: 2, or 1 for small images.
        num_classes: outputs of the classifier; 0 leaves it out and returns the features.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to leave the feature map unpooled (then without classifier).
        drop_rate: dropout before the classifier while training.

    Attributes:
        connections: what each block is, `"dense"` or `"harmonic"`.

    Raises:
        ValueError: an argument is not allowed.
    """

    can_checkpoint = True

    def __init__(
        self,
        layers: Sequence[int],
        transitions: Sequence[int],
        *,
        connection: str | Sequence[str] = "auto",
        threshold_channels: int = 272,
        stem_stride: int = 2,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ):
        super().__init__()
        check_whole("threshold_channels", threshold_channels)
        check_choice("stem_stride", stem_stride, (1, 2))
        self.connections = _connections(connection, threshold_channels, [64, *transitions[:-1]])
        self.base = nn.Sequential(
            ConvLayer(in_chans, 32, 3, stem_stride, act=nn.ReLU),
            ConvLayer(32, 64, act=nn.ReLU),
            nn.MaxPool2d(3, stem_stride, 1),
        )
        channels, reduction = 64, stem_stride**2
        self.feature_info: list[dict[str, Any]] = []
        for index, (number, maps) in enumerate(zip(layers, transitions, strict=True)):
            if self.connections[index] == "dense":
                self.base.append(nn.Sequential(*(ThreshLayer(channels + GROWTH * i) for i in range(number))))
                channels += GROWTH * number
            else:
                block = HarmonicBlock(channels, _HARMONIC_GROWTH[index], MULTIPLIER, number, act=nn.ReLU)
                self.base.append(block)
                channels = block.out_channels
            self.base.append(ConvLayer(channels, maps, 1, act=nn.ReLU))
            channels = maps
            module = f"base.{len(self.base) - 1}"
            self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": module})
            if _HALVE[index]:
                self.base.append(nn.MaxPool2d(2))
                reduction *= 2
        self.num_features = self.head_hidden_size = channels
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map."""
        return self.run_stage(self.base, x_NCHW)


def _connections(connection: str | Sequence[str], threshold: int, channels: Sequence[int]) -> list[str]:
    """What each block is, from its input channels if that is not said."""
    if connection == "auto":
        exceeding = (index for index, inputs in enumerate(channels) if inputs > threshold)
        first = next(exceeding, len(channels))
        return ["dense"] * first + ["harmonic"] * (len(channels) - first)
    if isinstance(connection, str):
        check_choice("connection", connection, ("auto", *CONNECTIONS))
        return [connection] * len(channels)
    if len(connection) != len(channels) or set(connection) - set(CONNECTIONS):
        raise UsageError(
            f"connection={connection!r} is not allowed; give 'auto', 'dense' or 'harmonic', or one of the last two for "
            f"each of the {len(channels)} blocks"
        )
    return list(connection)


default_cfgs = generate_default_cfgs(
    {f"{name}.untrained": cifar_cfg("base.0.conv", "linear") for name in ("threshnet79", "threshnet95")}
)


def _build(
    name: str, layers: Sequence[int], transitions: Sequence[int], pretrained: bool, arguments: dict[str, Any]
) -> ThreshNet:
    return build_model_with_cfg(
        ThreshNet, name, pretrained, **({"layers": layers, "transitions": transitions} | arguments)
    )


@register_model
def threshnet79(pretrained: bool = False, **arguments: Any) -> ThreshNet:
    """ThreshNet-79: 14,371,858 parameters."""
    return _build("threshnet79", (6, 8, 12, 16, 4), (128, 192, 288, 480, 960), pretrained, arguments)


@register_model
def threshnet95(pretrained: bool = False, **arguments: Any) -> ThreshNet:
    """ThreshNet-95: 16,189,202 parameters."""
    return _build("threshnet95", (6, 12, 16, 16, 4), (128, 256, 384, 480, 960), pretrained, arguments)
