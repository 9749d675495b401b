"""HarDNet (arXiv:1909.00948): DenseNet with only the harmonic subset of its connections, registered with timm.

Layer l of a block reads the layers `l - 2^i` for every i with `2^i` dividing l; layer 0 is the block's input. A layer
that many others read is wider: layer l makes `k m^v` maps, v being the number of times that 2 divides l, rounded to an
even number. The block's output is its odd layers and the last one, side by side. Every layer is a 3x3 convolution with
BatchNorm and ReLU6. The `ds` networks have a 1x1 convolution with BatchNorm and ReLU6 and a depthwise 3x3 convolution
with BatchNorm in its place.

A layer is needed only until layer `l + 2^v` has read it. Inference without gradients lets go of it then.

Parameter names are those of PingoLH/Pytorch-HarDNet, but for the classifier (`linear`; there the last entry of `base`).

Importing this module imports timm; afterwards `timm.create_model("hardnet68")` works.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import check_choice
from .classifier import Classifier, imagenet_cfg


def links(layer: int) -> list[int]:
    """The layers that a layer reads, nearest first.

    >>> [links(layer) for layer in range(1, 9)]
    [[0], [1, 0], [2], [3, 2, 0], [4], [5, 4], [6], [7, 6, 4, 0]]
    """
    return [layer - step for step in (1 << power for power in range(layer.bit_length())) if layer % step == 0]


def width(layer: int, growth: int, multiplier: float) -> int:
    """The maps that a layer makes: the growth, times the multiplier for each factor 2 of its number, made even.

    >>> [width(layer, 10, 1.7) for layer in range(1, 9)]
    [10, 18, 10, 28, 10, 18, 10, 50]
    """
    maps: float = growth
    while layer % 2 == 0:
        maps, layer = maps * multiplier, layer // 2
    return int(int(maps + 1) / 2) * 2


def last_reader(layer: int, layers: int) -> int:
    """The last layer of a block of so many layers that reads this one."""
    return max(reader for reader in range(layer + 1, layers + 1) if layer in links(reader))


class ConvLayer(nn.Sequential):
    """A convolution with BatchNorm and an activation, padded to keep the size at stride 1."""

    def __init__(self, channels: int, maps: int, kernel: int = 3, stride: int = 1, act: type[nn.Module] = nn.ReLU6):
        super().__init__()
        self.conv = nn.Conv2d(channels, maps, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(maps)
        self.relu = act(inplace=True)


class DepthwiseLayer(nn.Sequential):
    """A depthwise 3x3 convolution with BatchNorm and no activation."""

    def __init__(self, channels: int, stride: int = 1):
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)


class SeparableLayer(nn.Sequential):
    """A 1x1 `ConvLayer`, then a `DepthwiseLayer`: the layer of the `ds` networks."""

    def __init__(self, channels: int, maps: int):
        super().__init__()
        self.layer1 = ConvLayer(channels, maps, 1)
        self.layer2 = DepthwiseLayer(maps)


class HarmonicBlock(nn.Module):
    """(N, C, H, W) -> (N, out_channels, H, W): layers that read the harmonic subset of those before them.

    Args:
        channels: channels of the input.
        growth: k, the maps of the odd layers.
        multiplier: m, the factor of the width for each power of two that divides a layer's number.
        layers: their number.
        separable: `SeparableLayer` in place of the 3x3 convolution.
        keep_input: whether the output begins with the block's input.
        act: the activation.
    """

    def __init__(
        self,
        channels: int,
        growth: int,
        multiplier: float,
        layers: int,
        *,
        separable: bool = False,
        keep_input: bool = False,
        act: type[nn.Module] = nn.ReLU6,
    ):
        super().__init__()
        self.links = [links(layer) for layer in range(1, layers + 1)]
        widths = [channels, *(width(layer, growth, multiplier) for layer in range(1, layers + 1))]
        self.layers = nn.ModuleList()
        for layer, read in enumerate(self.links, start=1):
            inputs = sum(widths[source] for source in read)
            made = SeparableLayer(inputs, widths[layer]) if separable else ConvLayer(inputs, widths[layer], act=act)
            self.layers.append(made)
        self.outputs = [layer for layer in range(1, layers + 1) if layer % 2 or layer == layers]
        if keep_input:
            self.outputs.insert(0, 0)
        self.out_channels = sum(widths[layer] for layer in self.outputs)
        self._finished = [
            [layer for layer in range(reader) if layer not in self.outputs and last_reader(layer, layers) == reader]
            for reader in range(1, layers + 1)
        ]

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Run the layers in order, and let go of each map when its last reader is done."""
        maps: dict[int, Tensor] = {0: x_NCHW}
        for number, (layer, read, finished) in enumerate(
            zip(self.layers, self.links, self._finished, strict=True), start=1
        ):
            sources = [maps[source] for source in read]
            maps[number] = layer(torch.cat(sources, 1) if len(sources) > 1 else sources[0])
            for source in finished:
                del maps[source]
        return torch.cat([maps[output] for output in self.outputs], 1)


class HarDNet(Classifier):
    """A stem that divides the size by four, harmonic blocks with 1x1 transitions, and a linear classifier.

    Args:
        stem: maps of the two convolutions of the stem.
        blocks: (layers, growth, maps of the 1x1 transition, whether the size is then halved) of each block.
        multiplier: m, the factor of the width in the blocks.
        separable: the `ds` form: separable layers, a 1x1 second convolution in the stem, and strided depthwise
            convolutions in place of max pooling.
        block_drop_rate: dropout before the last transition while training.
        num_classes: outputs of the classifier; 0 leaves it out and returns the features.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to leave the feature map unpooled (then without classifier).
        drop_rate: dropout before the classifier while training.

    Raises:
        ValueError: an argument is not allowed.
    """

    can_checkpoint = True

    def __init__(
        self,
        stem: tuple[int, int],
        blocks: tuple[tuple[int, int, int, bool], ...],
        *,
        multiplier: float = 1.7,
        separable: bool = False,
        block_drop_rate: float = 0.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.1,
    ):
        super().__init__()
        check_choice("separable", separable, (True, False))
        self.base = nn.Sequential(
            ConvLayer(in_chans, stem[0], 3, 2),
            ConvLayer(stem[0], stem[1], 1 if separable else 3),
            DepthwiseLayer(stem[1], 2) if separable else nn.MaxPool2d(3, 2, 1),
        )
        channels, reduction = stem[1], 4
        self.feature_info: list[dict[str, Any]] = []
        for index, (layers, growth, maps, halve) in enumerate(blocks):
            block = HarmonicBlock(channels, growth, multiplier, layers, separable=separable)
            self.base.append(block)
            if index == len(blocks) - 1 and block_drop_rate:
                self.base.append(nn.Dropout(block_drop_rate))
            self.base.append(ConvLayer(block.out_channels, maps, 1))
            channels = maps
            place = f"base.{len(self.base) - 1}"
            self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": place})
            if halve:
                self.base.append(DepthwiseLayer(channels, 2) if separable else nn.MaxPool2d(2))
                reduction *= 2
        self.num_features = self.head_hidden_size = channels
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight)

    def init_classifier(self, linear: nn.Linear) -> None:
        """A bias of 0."""
        nn.init.zeros_(linear.bias)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map."""
        return self.run_stage(self.base, x_NCHW)


_68 = ((8, 14, 128, True), (16, 16, 256, False), (16, 20, 320, True), (16, 40, 640, True), (4, 160, 1024, False))
_85 = (
    *((8, 24, 192, True), (16, 24, 256, False), (16, 28, 320, True)),
    *((16, 36, 480, False), (16, 48, 720, True), (4, 256, 1280, False)),
)
_39 = ((4, 16, 96, True), (16, 20, 320, True), (8, 64, 640, True), (4, 160, 1024, False))

default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": imagenet_cfg("base.0.conv", "linear")
        for name in ("hardnet39ds", "hardnet68", "hardnet68ds", "hardnet85")
    }
)


def _from_authors(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename the classifier of the authors' state dict, the last entry of their `base`, to `linear`."""
    last = f"base.{len(model.get_submodule('base'))}.3."  # type: ignore[arg-type]
    return {f"linear.{name.removeprefix(last)}" if name.startswith(last) else name: v for name, v in state.items()}


def _build(name: str, pretrained: bool, arguments: dict[str, Any]) -> HarDNet:
    return build_model_with_cfg(HarDNet, name, pretrained, pretrained_filter_fn=_from_authors, **arguments)


@register_model
def hardnet39ds(pretrained: bool = False, **arguments: Any) -> HarDNet:
    """HarDNet-39DS, separable: 3,488,228 parameters."""
    own = {"stem": (24, 48), "blocks": _39, "multiplier": 1.6, "separable": True, "drop_rate": 0.05}
    return _build("hardnet39ds", pretrained, own | arguments)


@register_model
def hardnet68ds(pretrained: bool = False, **arguments: Any) -> HarDNet:
    """HarDNet-68DS, separable: 4,180,602 parameters."""
    own = {"stem": (32, 64), "blocks": _68, "separable": True, "drop_rate": 0.05}
    return _build("hardnet68ds", pretrained, own | arguments)


@register_model
def hardnet68(pretrained: bool = False, **arguments: Any) -> HarDNet:
    """HarDNet-68: 17,565,348 parameters."""
    return _build("hardnet68", pretrained, {"stem": (32, 64), "blocks": _68} | arguments)


@register_model
def hardnet85(pretrained: bool = False, **arguments: Any) -> HarDNet:
    """HarDNet-85: 36,670,212 parameters."""
    own = {"stem": (48, 96), "blocks": _85, "block_drop_rate": 0.1, "drop_rate": 0.2}
    return _build("hardnet85", pretrained, own | arguments)
