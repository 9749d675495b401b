"""DenseNet and DenseNet-BC for CIFAR and SVHN (arXiv:1608.06993), also with minimum units (arXiv:2201.02149), for timm.

A 3x3 stem, three dense blocks at full, half and quarter resolution joined by transitions, then BatchNorm, ReLU, the
global mean and a linear layer. Inside a block every layer reads all maps before it, oldest first, and adds k (the
growth). `cifar_densenet_L_k` are the plain networks, `cifar_densenet_bcL_k` those with bottlenecks of 4k maps and
transitions that keep half of the maps. In `min_densenet_bcL_k` the first layer of each block is a `MinimumBlock`.

Plain networks start with 16 maps, as in the paper's text and counts (the released code: 2k). The others have 2k.
Parameter names are those of torchvision and gpleiss/efficient_densenet_pytorch.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import UsageError, check_choice, is_whole
from ..units.minimum.block import MinimumBlock
from .checkpointing import checkpointed
from .classifier import Classifier, cifar_cfg


class DenseLayer(nn.Module):
    """The k new maps: `conv3x3(relu(BN(x)))`, or with `bottleneck` `conv3x3(relu(BN(conv1x1(relu(BN(x))))))`.

    The 1x1 convolution makes 4k maps. Dropout, if any, follows each convolution.
    """

    def __init__(self, in_channels: int, growth: int, *, bottleneck: bool = True, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.drop = nn.Dropout(drop_rate)
        self.bottleneck = bottleneck
        if bottleneck:
            self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(4 * growth)
            self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, growth, 3, padding=1, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, growth, H, W)."""
        h_NCHW = self.drop(self.conv1(F.relu(self.norm1(x_NCHW), inplace=True)))
        if self.bottleneck:
            h_NCHW = self.drop(self.conv2(F.relu(self.norm2(h_NCHW), inplace=True)))
        return h_NCHW


class DenseBlock(nn.Sequential):
    """Layers that each read the block's input and all new maps before them. The output is all maps together.

    Attributes:
        memory_efficient: while training, a layer keeps nothing but its new maps. Concatenation and layer run again in
            the backward pass. So memory grows with the number of layers, not with its square.
    """

    memory_efficient = False

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, in + layers * growth, H, W)."""
        if self.memory_efficient and self.training and torch.is_grad_enabled():
            maps = [x_NCHW]
            for layer in self:
                maps.append(checkpointed(_Joined(layer), *maps, modules=(layer,)))
            return torch.cat(maps, 1)
        for layer in self:
            x_NCHW = torch.cat([x_NCHW, layer(x_NCHW)], 1)
        return x_NCHW


class _Joined:
    """A layer as a function of several maps, which it reads side by side."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def __call__(self, *maps: Tensor) -> Tensor:
        return self.layer(torch.cat(maps, 1))


class Transition(nn.Module):
    """Between two blocks: BatchNorm, ReLU, 1x1 convolution, 2x2 average pooling."""

    def __init__(self, in_channels: int, out_channels: int, *, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.drop = nn.Dropout(drop_rate)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H // 2, W // 2)."""
        return self.pool(self.drop(self.conv(F.relu(self.norm(x_NCHW), inplace=True))))


class CifarDenseNet(Classifier):
    """A densely connected network of three blocks for images of about 32x32 pixels.

    Convolutions start normal with deviation `sqrt(2 / (k k out))`. Inside a minimum block, except in its shortcut, they
    start as PyTorch draws them. This follows the code of that paper.

    Args:
        depth: L, the number of layers, `3 n + 4` without and `6 n + 4` with bottlenecks for n layers a block.
        growth: k, the maps that each layer adds.
        bottleneck: DenseNet-BC: 1x1 convolutions to 4k maps in the layers, and transitions that halve the maps.
        minimum: the first layer of each block is a `MinimumBlock` to k maps.
        memory_efficient: training keeps the new maps of each layer only, and computes the others again in the backward
            pass: less than half of the memory, the same results. `set_grad_checkpointing` changes this later.
        num_classes: outputs of the classifier; 0 leaves it out and returns the features.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to leave the feature map unpooled (then without classifier).
        drop_rate: dropout before the classifier while training.
        proj_drop_rate: dropout after every convolution but the stem; 0.2 in the paper without augmentation.

    Raises:
        ValueError: an argument is not allowed.
    """

    classifier_name = "classifier"
    can_checkpoint = True

    def __init__(
        self,
        depth: int,
        growth: int,
        *,
        bottleneck: bool = True,
        minimum: bool = False,
        memory_efficient: bool = False,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("bottleneck", bottleneck, (True, False))
        check_choice("minimum", minimum, (True, False))
        check_choice("memory_efficient", memory_efficient, (True, False))
        layers = _layers(depth, bottleneck)
        channels = 2 * growth if bottleneck else 16
        self.feature_info: list[dict[str, Any]] = []
        self.features = nn.Sequential(
            OrderedDict(conv0=nn.Conv2d(in_chans, channels, 3, padding=1, bias=False)),
        )
        for block in (1, 2, 3):
            dense = _dense_block(channels, growth, layers, bottleneck, minimum, proj_drop_rate)
            self.features.add_module(f"denseblock{block}", dense)
            channels += layers * growth
            module = f"features.denseblock{block}"
            self.feature_info.append({"num_chs": channels, "reduction": 2 ** (block - 1), "module": module})
            if block < 3:
                fewer = channels // 2 if bottleneck else channels
                transition = Transition(channels, fewer, drop_rate=proj_drop_rate)
                self.features.add_module(f"transition{block}", transition)
                channels = fewer
        self.features.add_module("norm_final", nn.BatchNorm2d(channels))
        self.num_features = self.head_hidden_size = channels
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        self.set_grad_checkpointing(memory_efficient)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and ".core." not in name:
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def init_classifier(self, linear: nn.Linear) -> None:
        """A bias of 0."""
        nn.init.zeros_(linear.bias)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Set `memory_efficient` of the blocks."""
        super().set_grad_checkpointing(enable)
        for module in self.modules():
            if isinstance(module, DenseBlock):
                module.memory_efficient = enable

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map, rectified, (N, C, H/4, W/4)."""
        return F.relu(self.features(x_NCHW), inplace=True)


def _layers(depth: int, bottleneck: bool) -> int:
    each = 6 if bottleneck else 3
    if not is_whole(depth) or depth <= 4 or (depth - 4) % each:
        raise UsageError(
            f"depth={depth!r} is not allowed; give {each} n + 4 for n layers in each of the three blocks, "
            f"for example {each * 6 + 4}"
        )
    return (depth - 4) // each


def _dense_block(
    channels: int, growth: int, layers: int, bottleneck: bool, minimum: bool, drop_rate: float
) -> DenseBlock:
    block = DenseBlock()
    for index in range(layers):
        here = channels + index * growth
        layer: nn.Module
        if minimum and index == 0:
            layer = MinimumBlock(here, growth)
        else:
            layer = DenseLayer(here, growth, bottleneck=bottleneck, drop_rate=drop_rate)
        block.add_module(f"denselayer{index + 1}", layer)
    return block


_SIZES = ("40_12", "100_12", "100_24")
_BC = ("bc22_12", "bc58_12", "bc100_12", "bc250_24", "bc190_40", "bc40_36", "bc40_48", "bc40_60")
_MINIMUM = ("bc22_12", "bc58_12", "bc100_12")

default_cfgs = generate_default_cfgs(
    {
        **{f"cifar_densenet_{size}.untrained": cifar_cfg("features.conv0", "classifier") for size in (*_SIZES, *_BC)},
        **{f"min_densenet_{size}.untrained": cifar_cfg("features.conv0", "classifier") for size in _MINIMUM},
    }
)


def _build(name: str, depth: int, growth: int, pretrained: bool, arguments: dict[str, Any]) -> CifarDenseNet:
    return build_model_with_cfg(CifarDenseNet, name, pretrained, depth=depth, growth=growth, **arguments)


@register_model
def cifar_densenet_40_12(pretrained: bool = False, **arguments: Any) -> CifarDenseNet:
    """DenseNet, L = 40, k = 12: 1,019,722 parameters."""
    return _build("cifar_densenet_40_12", 40, 12, pretrained, {"bottleneck": False} | arguments)


@register_model
def cifar_densenet_100_12(pretrained: bool = False, **arguments: Any) -> CifarDenseNet:
    """DenseNet, L = 100, k = 12: 6,979,642 parameters."""
    return _build("cifar_densenet_100_12", 100, 12, pretrained, {"bottleneck": False} | arguments)


@register_model
def cifar_densenet_100_24(pretrained: bool = False, **arguments: Any) -> CifarDenseNet:
    """DenseNet, L = 100, k = 24: 27,249,082 parameters."""
    return _build("cifar_densenet_100_24", 100, 24, pretrained, {"bottleneck": False} | arguments)


@register_model
def cifar_densenet_bc22_12(pretrained: bool = False, **arguments: Any) -> CifarDenseNet:
    """DenseNet-BC, L = 22, k = 12: 71,686 parameters."""
    return _build("cifar_densenet_bc22_12", 22, 12, pretrained, arguments)


@register_model
def cifar_densenet_bc58_12(pretrained: bool = False, **arguments: Any) -> CifarDenseNet:
    """DenseNet-BC, L = 58, k = 12: 314,470 parameters."""
    return _build("cifar_densenet_bc58_12", 58, 12, pretrained, arguments)


@register_model
def cifar_densenet_bc100_12(pretrained: bool = False, **arguments: Any) -> CifarDenseNet:
    """DenseNet-BC, L = 100, k = 12: 769,162 parameters."""
    return _build("cifar_densenet_bc100_12", 100, 12, pretrained, arguments)


@register_model
def cifar_densenet_bc250_24(pretrained: bool = False, **arguments: Any) -> CifarDenseNet:
    """DenseNet-BC, L = 250, k = 24: 15,324,406 parameters."""
    return _build("cifar_densenet_bc250_24", 250, 24, pretrained, arguments)


@register_model
def cifar_densenet_bc190_40(pretrained: bool = False, **arguments: Any) -> CifarDenseNet:
    """DenseNet-BC, L = 190, k = 40: 25,624,430 parameters."""
    return _build("cifar_densenet_bc190_40", 190, 40, pretrained, arguments)


@register_model
def cifar_densenet_bc40_36(pretrained: bool = False, **arguments: Any) -> CifarDenseNet:
    """Wide DenseNet-BC, L = 40, k = 36: 1,542,682 parameters."""
    return _build("cifar_densenet_bc40_36", 40, 36, pretrained, arguments)


@register_model
def cifar_densenet_bc40_48(pretrained: bool = False, **arguments: Any) -> CifarDenseNet:
    """Wide DenseNet-BC, L = 40, k = 48: 2,733,130 parameters."""
    return _build("cifar_densenet_bc40_48", 40, 48, pretrained, arguments)


@register_model
def cifar_densenet_bc40_60(pretrained: bool = False, **arguments: Any) -> CifarDenseNet:
    """Wide DenseNet-BC, L = 40, k = 60: 4,261,690 parameters."""
    return _build("cifar_densenet_bc40_60", 40, 60, pretrained, arguments)


@register_model
def min_densenet_bc22_12(pretrained: bool = False, **arguments: Any) -> CifarDenseNet:
    """DenseNet-BC with minimum blocks, L = 22, k = 12: 57,040 parameters."""
    return _build("min_densenet_bc22_12", 22, 12, pretrained, {"minimum": True} | arguments)


@register_model
def min_densenet_bc58_12(pretrained: bool = False, **arguments: Any) -> CifarDenseNet:
    """DenseNet-BC with minimum blocks, L = 58, k = 12: 298,564 parameters."""
    return _build("min_densenet_bc58_12", 58, 12, pretrained, {"minimum": True} | arguments)


@register_model
def min_densenet_bc100_12(pretrained: bool = False, **arguments: Any) -> CifarDenseNet:
    """DenseNet-BC with minimum blocks, L = 100, k = 12: 751,786 parameters."""
    return _build("min_densenet_bc100_12", 100, 12, pretrained, {"minimum": True} | arguments)
