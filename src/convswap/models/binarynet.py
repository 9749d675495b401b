"""BinaryNets without shortcuts (arXiv:1602.02830, 1609.07061), each with its float twin; timm names.

- `binarynet_cifar10`: 128C3-128C3-P2-256C3-256C3-P2-512C3-512C3-P2-1024FC-1024FC-10, 14.02 million weights;
  `binarynet_svhn`: half as many convolution channels;
- `binarynet_mnist`: three hidden layers of 4096 with dropout; `binarynet_mnist_2048`: of 2048 without;
- `binarynet_vgg_3x`, `binarynet_alexnet_3x`: the wider networks of the authors' PyTorch code.

A name with `_float` behind it (or `binary=False`) is the twin: the same layers in the same order with real weights and
activations. Importing this module imports timm; afterwards `timm.create_model("binarynet_cifar10")` works.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import UsageError
from .binary_layers import Layers
from .classifier import Classifier, cifar_cfg, imagenet_cfg

Stage = tuple[int, int, int, int, int]
"""A convolution: channels, kernel, stride, padding, and the window of the max-pooling behind it (stride 2; 0: none)."""


def vgg_stages(channels: Sequence[int]) -> tuple[Stage, ...]:
    """3x3 convolutions, a 2x2 pooling after every second one."""
    return tuple((width, 3, 1, 1, 2 * (index % 2)) for index, width in enumerate(channels))


CIFAR10, SVHN = vgg_stages((128, 128, 256, 256, 512, 512)), vgg_stages((64, 64, 128, 128, 256, 256))
VGG_3X = vgg_stages((384, 384, 768, 768, 1536, 512))
ALEXNET_3X: tuple[Stage, ...] = (
    (192, 11, 4, 2, 3),
    (576, 5, 1, 2, 3),
    (1152, 3, 1, 1, 0),
    (768, 3, 1, 1, 0),
    (256, 3, 1, 1, 3),
)


class BinaryNet(Classifier):
    """Layers of convolution - (max-pooling) - normalisation - HardTanh - sign, then the same with fully connected ones.

    Every layer is binary, including the last. Only the first layer's input, the image, is real. The sign of a layer's
    output is taken at the entrance of the next layer (`QuantizedConv2d`). Fully connected layers are 1x1 convolutions
    over a map of one pixel, so that every tool for convolutions, and the packing of bits, applies to them. The logits
    are normalised. Under convswap's recipes the latent weights stay in [-1, 1] and learn at Glorot's rate.

    (N, in_chans, img_size, img_size) -> (N, num_classes).

    Args:
        stages: the convolutions; empty for a multi-layer perceptron on the pixels.
        hidden: widths of the hidden fully connected layers.
        img_size: height and width of the images, which determine the size of the first fully connected layer.
        drop_in: dropout of the pixels while training.
        drop_hidden: dropout of the (quantised) inputs of fully connected layers behind another one.
        num_classes: outputs. 0 leaves the last layer out and returns its input.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to return the last feature map (then without classifier).
        layers: further arguments are those of `Layers`: `binary`, `weight_bits`, `activation_bits`, `gradient_bits`,
            `stochastic`, `norm`, `bias`, `scaled`.

    Raises:
        ValueError: an argument is not allowed or, at the call, an image has another size.
    """

    classifier_name = "head"

    def __init__(
        self,
        stages: Sequence[Stage] = CIFAR10,
        hidden: Sequence[int] = (1024, 1024),
        *,
        img_size: int = 32,
        drop_in: float = 0.0,
        drop_hidden: float = 0.0,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        **layers: Any,
    ):
        super().__init__()
        self.layers = Layers(**layers)
        self.img_size, self.drop_hidden = img_size, drop_hidden
        self.drop = nn.Dropout(drop_in)
        self.stages = nn.Sequential()
        self.feature_info = []
        channels, size, reduction = in_chans, img_size, 1
        for index, (width, kernel, stride, padding, window) in enumerate(stages):
            conv = self.layers.conv(channels, width, kernel, stride, padding, first=index == 0)
            pool = nn.MaxPool2d(window, 2) if window else None
            self.stages.append(self.layers.layer(conv, pool))
            size = (size + 2 * padding - kernel) // stride + 1
            size = (size - window) // 2 + 1 if window else size
            channels, reduction = width, reduction * stride * (2 if window else 1)
            self.feature_info.append({"num_chs": width, "reduction": reduction, "module": f"stages.{index}"})
        if size < 1:
            raise UsageError(f"img_size={img_size!r} is not allowed; nothing is left of it behind the convolutions")
        self.last_size, width = size, channels * size * size
        self.hidden = nn.Sequential()
        for index, features in enumerate(hidden):
            first = not stages and index == 0
            conv = self.layers.conv(width, features, 1, first=first, dropout=drop_hidden if index else 0.0)
            self.hidden.append(self.layers.layer(conv))
            width = features
        self.num_features = self.head_hidden_size = width
        self.reset_classifier(num_classes, global_pool)

    def make_classifier(self, num_classes: int, **place: Any) -> nn.Module:
        """A last layer and the normalisation of the logits."""
        conv = self.layers.conv(self.num_features, num_classes, 1, dropout=self.drop_hidden, **place)
        return self.layers.layer(conv, last=True)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map before the fully connected layers, not yet quantised."""
        height, width = x_NCHW.shape[2:]
        if (height, width) != (self.img_size, self.img_size):
            raise UsageError(f"got images of {height}x{width}, but this network is made for img_size={self.img_size}")
        return self.stages(self.drop(x_NCHW))

    def forward_head(self, x_NCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """The fully connected layers; `pre_logits` stops before the last one."""
        if not self.global_pool:
            return x_NCHW
        x_NF11 = self.hidden(x_NCHW.flatten(1)[:, :, None, None])
        return (x_NF11 if pre_logits else self.get_classifier()(x_NF11)).flatten(1)


def _cfg(size: int = 32, chans: int = 3) -> dict[str, Any]:
    make = cifar_cfg if size < 64 else imagenet_cfg
    first = "stages.0.conv" if chans == 3 else "hidden.0.conv"
    cfg = make(first, "head.conv") | {"input_size": (chans, size, size), "pool_size": None}
    return cfg if chans == 3 else cfg | {"mean": (0.1307,), "std": (0.3081,)}


_NAMES = {
    "binarynet_cifar10": _cfg(),
    "binarynet_svhn": _cfg(),
    "binarynet_mnist": _cfg(28, 1),
    "binarynet_mnist_2048": _cfg(28, 1),
    "binarynet_vgg_3x": _cfg(),
    "binarynet_alexnet_3x": _cfg(224),
}
default_cfgs = generate_default_cfgs(
    {f"{name}{twin}.untrained": cfg for name, cfg in _NAMES.items() for twin in ("", "_float")}
)


def _build(name: str, pretrained: bool, arguments: dict[str, Any]) -> BinaryNet:
    return build_model_with_cfg(BinaryNet, name, pretrained, **arguments)


@register_model
def binarynet_cifar10(pretrained: bool = False, **arguments: Any) -> BinaryNet:
    """The paper's network for CIFAR-10: 14,022,016 weights, 617.0 million products."""
    return _build("binarynet_cifar10", pretrained, arguments)


@register_model
def binarynet_cifar10_float(pretrained: bool = False, **arguments: Any) -> BinaryNet:
    """The float twin of `binarynet_cifar10`."""
    return _build("binarynet_cifar10_float", pretrained, {"binary": False, **arguments})


@register_model
def binarynet_svhn(pretrained: bool = False, **arguments: Any) -> BinaryNet:
    """The paper's network for SVHN, half as wide in its convolutions."""
    return _build("binarynet_svhn", pretrained, {"stages": SVHN, **arguments})


@register_model
def binarynet_svhn_float(pretrained: bool = False, **arguments: Any) -> BinaryNet:
    """The float twin of `binarynet_svhn`."""
    return _build("binarynet_svhn_float", pretrained, {"stages": SVHN, "binary": False, **arguments})


_MNIST = {"stages": (), "img_size": 28, "in_chans": 1}
_DROPOUT = {"hidden": (4096,) * 3, "drop_in": 0.2, "drop_hidden": 0.5}


@register_model
def binarynet_mnist(pretrained: bool = False, **arguments: Any) -> BinaryNet:
    """The perceptron of the Theano code: three hidden layers of 4096, dropout 0.2 of pixels and 0.5 of hidden signs."""
    return _build("binarynet_mnist", pretrained, {**_MNIST, **_DROPOUT, **arguments})


@register_model
def binarynet_mnist_float(pretrained: bool = False, **arguments: Any) -> BinaryNet:
    """The float twin of `binarynet_mnist`."""
    return _build("binarynet_mnist_float", pretrained, {**_MNIST, **_DROPOUT, "binary": False, **arguments})


@register_model
def binarynet_mnist_2048(pretrained: bool = False, **arguments: Any) -> BinaryNet:
    """The perceptron of the Torch7 code: three hidden layers of 2048."""
    return _build("binarynet_mnist_2048", pretrained, {**_MNIST, "hidden": (2048,) * 3, **arguments})


@register_model
def binarynet_mnist_2048_float(pretrained: bool = False, **arguments: Any) -> BinaryNet:
    """The float twin of `binarynet_mnist_2048`."""
    arguments = {**_MNIST, "hidden": (2048,) * 3, "binary": False, **arguments}
    return _build("binarynet_mnist_2048_float", pretrained, arguments)


_VGG = {"stages": VGG_3X, "bias": True, "scaled": False}
_ALEXNET = {
    "stages": ALEXNET_3X,
    "hidden": (4096, 4096),
    "img_size": 224,
    "num_classes": 1000,
    "bias": True,
    "scaled": False,
}


@register_model
def binarynet_vgg_3x(pretrained: bool = False, **arguments: Any) -> BinaryNet:
    """The VGG of the authors' PyTorch code, three times as wide (384 to 1536 channels): 36.46 million parameters."""
    return _build("binarynet_vgg_3x", pretrained, {**_VGG, **arguments})


@register_model
def binarynet_vgg_3x_float(pretrained: bool = False, **arguments: Any) -> BinaryNet:
    """The float twin of `binarynet_vgg_3x`."""
    return _build("binarynet_vgg_3x_float", pretrained, {**_VGG, "binary": False, **arguments})


@register_model
def binarynet_alexnet_3x(pretrained: bool = False, **arguments: Any) -> BinaryNet:
    """The AlexNet of the authors' PyTorch code, three times as wide in its convolutions: 77.20 million parameters."""
    return _build("binarynet_alexnet_3x", pretrained, {**_ALEXNET, **arguments})


@register_model
def binarynet_alexnet_3x_float(pretrained: bool = False, **arguments: Any) -> BinaryNet:
    """The float twin of `binarynet_alexnet_3x`."""
    return _build("binarynet_alexnet_3x_float", pretrained, {**_ALEXNET, "binary": False, **arguments})
