"""AlexNet with binary weights (BWN) and with binary weights and inputs (XNOR-Net), arXiv:1603.05279; timm names.

`xnor_alexnet` and `bwn_alexnet` are the networks of the official program (allenai/XNOR-Net, models/alexnetxnor.lua and
models/alexnet.lua): 224x224 images, fully connected layers as convolutions, no ReLU in the XNOR blocks.
`xnor_alexnet_relu` is the network of a widely used PyTorch program (jiecaoyu/XNOR-Net-PyTorch): 227x227 images, a ReLU
after every binary convolution, dropout before the last two layers, one scale and shift per feature before the first
fully connected layer. The first and the last layer have full precision.

Importing this module imports timm; afterwards `timm.create_model("xnor_alexnet")` works.
"""

from __future__ import annotations

import math
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import UsageError, check_choice
from ..units import BinaryWeightConv2d, XnorConv2d
from .classifier import Classifier, imagenet_cfg

# (out channels, kernel, padding, pooled behind) of the convolutions that are binary
_INNER = ((256, 5, 2, True), (384, 3, 1, False), (384, 3, 1, False), (256, 3, 1, True))
_HIDDEN = 4096


class BinaryAlexNet(Classifier):
    """AlexNet of one column: (N, in_chans, H, W), H and W at least 224 (227 without stem padding), -> (N, num_classes).

    Args:
        binary: `"xnor"`, blocks of BatchNorm - sign - convolution - [ReLU] - pool, or `"weight"`, of convolution with
            binary weights - BatchNorm - ReLU - pool.
        relu: whether a ReLU follows the convolutions of the XNOR blocks.
        dense: the first fully connected layer as a `"conv"` of 6x6, with one BatchNorm channel per map, or as a
            `"linear"` layer of the flattened map, with one per feature (the input must then shrink to 6x6).
        stem_padding: padding of the first convolution, 2 for 224x224 images, 0 for 227x227.
        spatial_drop_rate: for `"weight"`, dropout of whole maps around the first fully connected layer.
        sign_drop_rate: for `"xnor"`, dropout of signs before the second fully connected layer.
        input_scale: for `"xnor"`, the unit's option: `"none"` or `"K"`.
        num_classes: outputs of the classifier; 0 leaves it out and returns the 4096 features.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to leave the feature map unpooled (then without classifier).
        drop_rate: dropout before the classifier while training.

    Raises:
        ValueError: an argument is not allowed.
    """

    def __init__(
        self,
        *,
        binary: str = "xnor",
        relu: bool = False,
        dense: str = "conv",
        stem_padding: int = 2,
        spatial_drop_rate: float = 0.0,
        sign_drop_rate: float = 0.0,
        input_scale: str = "none",
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ):
        super().__init__()
        check_choice("binary", binary, ("xnor", "weight"))
        check_choice("relu", relu, (True, False))
        check_choice("dense", dense, ("conv", "linear"))
        if binary == "weight" and dense == "linear":
            raise UsageError("dense='linear' is not allowed with binary='weight'; choose 'conv'")
        self.num_features = self.head_hidden_size = _HIDDEN
        self.feature_info = [{"num_chs": 256, "reduction": 32, "module": "features"}]
        xnor = binary == "xnor"
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, 96, 11, 4, stem_padding), nn.BatchNorm2d(96), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)
        )

        def block(channels: int, out: int, kernel: int, padding: int = 0, drop: float = 0.0) -> list[nn.Module]:
            if xnor:
                unit = XnorConv2d(channels, out, kernel, padding=padding, input_scale=input_scale, dropout=drop)
                return [unit, nn.ReLU(inplace=True)] if relu else [unit]
            conv = BinaryWeightConv2d(channels, out, kernel, padding=padding)
            return [conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]

        self.features, channels = nn.Sequential(), 96
        for out, kernel, padding, pooled in _INNER:
            self.features.extend([*block(channels, out, kernel, padding), *([nn.MaxPool2d(3, 2)] if pooled else [])])
            channels = out
        flat = dense == "linear"
        first = block(36 * channels, _HIDDEN, 1) if flat else block(channels, _HIDDEN, 6)
        around = nn.Dropout2d(spatial_drop_rate)
        second = block(_HIDDEN, _HIDDEN, 1, drop=sign_drop_rate)
        end = [nn.BatchNorm2d(_HIDDEN, eps=1e-3), nn.ReLU(inplace=True)]
        self.flatten = FlattenToPixel() if flat else nn.Identity()
        if xnor:
            # in the PyTorch program the map is already rectified
            self.hidden = nn.Sequential(*first, *second, *(end[:1] if relu else end))
        else:
            self.hidden = nn.Sequential(around, *first, nn.Dropout2d(spatial_drop_rate), *second)
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=math.sqrt(2 / module.weight[0].numel()))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map, (N, 4096, 1, 1) of the images the network is made for."""
        return self.hidden(self.flatten(self.features(self.stem(x_NCHW))))


class FlattenToPixel(nn.Module):
    """(N, C, H, W) -> (N, C H W, 1, 1)."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """All features of an image as the channels of one pixel."""
        return x_NCHW.flatten(1)[:, :, None, None]


def _cfg(size: int = 224) -> dict[str, Any]:
    return imagenet_cfg("stem.0", "linear") | {"pool_size": (1, 1), "input_size": (3, size, size)}


default_cfgs = generate_default_cfgs(
    {
        "xnor_alexnet.untrained": _cfg(),
        "xnor_alexnet_relu.untrained": _cfg(227),
        "bwn_alexnet.untrained": _cfg(),
    }
)


def _build(name: str, pretrained: bool, arguments: dict[str, Any]) -> BinaryAlexNet:
    return build_model_with_cfg(BinaryAlexNet, name, pretrained, **arguments)


@register_model
def xnor_alexnet(pretrained: bool = False, **arguments: Any) -> BinaryAlexNet:
    """XNOR-Net AlexNet as in the official program: 62,397,672 parameters, 58,236,928 of them binary weights."""
    return _build("xnor_alexnet", pretrained, arguments)


@register_model
def xnor_alexnet_relu(pretrained: bool = False, **arguments: Any) -> BinaryAlexNet:
    """XNOR-Net AlexNet as in the PyTorch program, for 227x227 images: 62,415,592 parameters."""
    form = {"relu": True, "dense": "linear", "stem_padding": 0, "sign_drop_rate": 0.5, "drop_rate": 0.5}
    return _build("xnor_alexnet_relu", pretrained, form | arguments)


@register_model
def bwn_alexnet(pretrained: bool = False, **arguments: Any) -> BinaryAlexNet:
    """Binary-Weight-Network AlexNet as in the official program (dropout of maps 0.1, as its README trains)."""
    return _build("bwn_alexnet", pretrained, {"binary": "weight", "spatial_drop_rate": 0.1, **arguments})
