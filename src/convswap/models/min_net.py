"""Min-Nets for CIFAR and the pyramid-block networks of their comparison (arXiv:2201.02149), registered with timm.

A stem of 3x3 convolution, BatchNorm and ReLU with 16 maps; three stages of N blocks with 16, 32 and 64 maps, the second
and third starting with stride 2; the global mean; a linear layer. `pyramid_resnet20/32/44/56` have pyramid blocks
only (N = 3, 5, 7, 9, two convolutions a block). In `min_net23/35/47/59` the first block of each stage is a
`MinimumBlock`, which counts as three layers. With `basic=True` the other blocks are He's basic blocks (the "-RNBasic"
of the authors' code). `combine="product"` makes an FP-net.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import check_choice, check_whole
from ..units.minimum.block import MinimumBlock, ResidualAdapter
from .classifier import Classifier, cifar_cfg


class PyramidBlock(nn.Module):
    """`y = BN(conv3x3(relu(BN(conv3x3(BN(x)))))) + shortcut(x)`: one rectifier inside, none after the sum.

    The first convolution has the stride; the shortcut is a `ResidualAdapter`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = ResidualAdapter(in_channels, out_channels, stride)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""
        h_NCHW = self.act(self.bn2(self.conv1(self.bn1(x_NCHW))))
        return self.bn3(self.conv2(h_NCHW)) + self.shortcut(x_NCHW)


class TailPaddedBasicBlock(nn.Module):
    """He's basic block as in that code: every second pixel and appended zero channels as shortcut, and ReLU last."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act2 = nn.ReLU()
        self.stride, self.zero_channels = stride, out_channels - in_channels

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""
        h_NCHW = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x_NCHW)))))
        shortcut = x_NCHW[:, :, :: self.stride, :: self.stride]
        return self.act2(h_NCHW + nn.functional.pad(shortcut, (0, 0, 0, 0, 0, self.zero_channels)))


class MinNet(Classifier):
    """A residual network of pyramid blocks, or of basic ones, whose stages may start with minimum blocks.

    The weights start as in the authors' code. With minimum blocks, everything is as PyTorch draws it. With pyramid
    blocks alone, convolutions are normal with deviation `sqrt(2 / (k k out))`. With basic blocks alone, convolutions
    and classifier are normal with deviation `sqrt(2 / fan_in)`.

    Args:
        blocks: N, residual blocks in each of the three stages.
        combine: how the minimum blocks at the start of the stages join their filters (`MinimumBlock`). None: there
            are no minimum blocks, and all blocks are of one kind.
        basic: use He's basic blocks instead of pyramid blocks.
        num_classes: outputs of the classifier; 0 leaves it out and returns the 64 features.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to leave the feature map unpooled (then without classifier).
        drop_rate: dropout before the classifier while training.

    Raises:
        ValueError: an argument is not allowed.
    """

    def __init__(
        self,
        blocks: int,
        *,
        combine: str | None = "min",
        basic: bool = False,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_whole("blocks", blocks)
        check_choice("basic", basic, (True, False))
        self.num_features = self.head_hidden_size = 64
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = nn.ReLU()
        self.layer1 = _stage(16, 16, blocks, 1, combine, basic)
        self.layer2 = _stage(16, 32, blocks, 2, combine, basic)
        self.layer3 = _stage(32, 64, blocks, 2, combine, basic)
        self.feature_info = [
            {"num_chs": 16, "reduction": 1, "module": "layer1"},
            {"num_chs": 32, "reduction": 2, "module": "layer2"},
            {"num_chs": 64, "reduction": 4, "module": "layer3"},
        ]
        self.drop = nn.Dropout(drop_rate)
        self.plain = combine is None and basic
        self.reset_classifier(num_classes, global_pool)
        if combine is None:
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_in" if basic else "fan_out")

    def init_classifier(self, linear: nn.Linear) -> None:
        """Draw as `nn.Linear` does or, behind basic blocks alone, normally by the fan-in."""
        if self.plain:
            nn.init.kaiming_normal_(linear.weight)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map, (N, 64, H/4, W/4)."""
        x_NCHW = self.act1(self.bn1(self.conv1(x_NCHW)))
        return self.layer3(self.layer2(self.layer1(x_NCHW)))


def _stage(
    in_channels: int, out_channels: int, blocks: int, stride: int, combine: str | None, basic: bool
) -> nn.Sequential:
    usual = TailPaddedBasicBlock if basic else PyramidBlock
    first: nn.Module
    if combine is None:
        first = usual(in_channels, out_channels, stride)
    else:
        first = MinimumBlock(in_channels, out_channels, stride, combine=combine)
    return nn.Sequential(first, *(usual(out_channels, out_channels) for _ in range(blocks - 1)))


_DEPTHS = (3, 5, 7, 9)

default_cfgs = generate_default_cfgs(
    {
        **{f"min_net{6 * n + 5}.untrained": cifar_cfg("conv1", "linear") for n in _DEPTHS},
        **{f"pyramid_resnet{6 * n + 2}.untrained": cifar_cfg("conv1", "linear") for n in _DEPTHS},
    }
)


def _build(name: str, blocks: int, pretrained: bool, arguments: dict[str, Any]) -> MinNet:
    return build_model_with_cfg(MinNet, name, pretrained, blocks=blocks, **arguments)


@register_model
def min_net23(pretrained: bool = False, **arguments: Any) -> MinNet:
    """Min-Net, N = 3: 217,082 parameters."""
    return _build("min_net23", 3, pretrained, arguments)


@register_model
def min_net35(pretrained: bool = False, **arguments: Any) -> MinNet:
    """Min-Net, N = 5: 411,962 parameters."""
    return _build("min_net35", 5, pretrained, arguments)


@register_model
def min_net47(pretrained: bool = False, **arguments: Any) -> MinNet:
    """Min-Net, N = 7: 606,842 parameters."""
    return _build("min_net47", 7, pretrained, arguments)


@register_model
def min_net59(pretrained: bool = False, **arguments: Any) -> MinNet:
    """Min-Net, N = 9: 801,722 parameters."""
    return _build("min_net59", 9, pretrained, arguments)


@register_model
def pyramid_resnet20(pretrained: bool = False, **arguments: Any) -> MinNet:
    """Pyramid blocks, N = 3: 270,298 parameters."""
    return _build("pyramid_resnet20", 3, pretrained, {"combine": None} | arguments)


@register_model
def pyramid_resnet32(pretrained: bool = False, **arguments: Any) -> MinNet:
    """Pyramid blocks, N = 5: 465,178 parameters."""
    return _build("pyramid_resnet32", 5, pretrained, {"combine": None} | arguments)


@register_model
def pyramid_resnet44(pretrained: bool = False, **arguments: Any) -> MinNet:
    """Pyramid blocks, N = 7: 660,058 parameters."""
    return _build("pyramid_resnet44", 7, pretrained, {"combine": None} | arguments)


@register_model
def pyramid_resnet56(pretrained: bool = False, **arguments: Any) -> MinNet:
    """Pyramid blocks, N = 9: 854,938 parameters."""
    return _build("pyramid_resnet56", 9, pretrained, {"combine": None} | arguments)
