"""The all-convolutional network (arXiv:1412.6806) and what its paper compares it with, registered with timm.

Every network has two blocks (96 and 192 maps) and a head of convolutions: 3x3 and 1x1 with 192 maps, then 1x1 with one
map per class, averaged. A ReLU follows each convolution but the last. There is no BatchNorm. Block X of `all_cnn_*_x`
is a: 5x5; b: 5x5, 1x1; c: 3x3, 3x3. Between the blocks stands

- in `all_cnn_base_x` ("Model X") max pooling, 3x3 with stride 2;
- in `all_cnn_strided_x` ("Strided-CNN-X") nothing: the last convolution of the block has stride 2;
- in `all_cnn_conv_pool_x` ("ConvPool-CNN-X") one more 3x3 convolution, then the pooling;
- in `all_cnn_x` ("All-CNN-X") a 3x3 convolution with stride 2 in place of the pooling.

`all_cnn_imagenet` is the larger All-CNN-B for 224x224 images.

Importing this module imports timm; afterwards `timm.create_model("all_cnn_c")` works.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import check_choice
from .classifier import Classifier, cifar_cfg, imagenet_cfg

_KERNELS = {"a": (5,), "b": (5, 1), "c": (3, 3)}
POOLINGS = ("max", "strided", "conv_pool", "conv")

#: of a stage: (width, kernel, stride, padding) of each convolution, and whether 3x3 max pooling with stride 2 follows
Stage = tuple[tuple[tuple[int, int, int, int], ...], bool]

_IMAGENET: tuple[Stage, ...] = (
    (((96, 11, 4, 1), (96, 1, 1, 0), (96, 3, 2, 1)), False),
    (((256, 5, 1, 0), (256, 1, 1, 0), (256, 3, 2, 1)), False),
    (((384, 3, 1, 1), (384, 1, 1, 0), (384, 3, 2, 1)), False),
)


def cifar_stages(base: str, pooling: str) -> tuple[Stage, ...]:
    """The two blocks of a network for 32x32 images.

    >>> cifar_stages("c", "strided")[0]
    (((96, 3, 1, 1), (96, 3, 2, 1)), False)
    """
    stages: list[Stage] = []
    for width in (96, 192):
        convs = [(width, kernel, 1, kernel // 2) for kernel in _KERNELS[base]]
        if pooling == "strided":
            last = convs[-1]
            convs[-1] = (width, last[1], 2, last[3])
        elif pooling != "max":
            convs.append((width, 3, 2 if pooling == "conv" else 1, 1))
        stages.append((tuple(convs), pooling in ("max", "conv_pool")))
    return tuple(stages)


class AllCNN(Classifier):
    """Convolutions and ReLUs, the mean over the maps of the classes, and nothing else.

    (N, in_chans, H, W) -> (N, num_classes). Weights start as Glorot and Bengio's normal draw: without BatchNorm the
    deeper forms do not start to learn from PyTorch's own.

    Args:
        base: the block of the paper, `"a"`, `"b"` or `"c"`; `"imagenet"` is the network for 224x224 images.
        pooling: `"max"`, `"strided"`, `"conv_pool"` or `"conv"`, see above; `"conv"` for `base="imagenet"`.
        head_padding: whether the 3x3 convolution of the head is padded. The paper averages over 6x6 pixels, so its
            network has no padding there. Most programs pad and average over 8x8.
        class_relu: whether a ReLU follows the last convolution, as in the paper's table.
        num_classes: outputs of the classifier; 0 leaves it out and returns the features before it.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to leave the feature map unpooled (then without classifier).
        input_drop_rate: dropout of the pixels while training.
        drop_rate: dropout after each block while training.

    Raises:
        ValueError: an argument is not allowed.
    """

    classifier_name = "classifier"

    def __init__(
        self,
        *,
        base: str = "c",
        pooling: str = "conv",
        head_padding: bool = True,
        class_relu: bool = False,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        input_drop_rate: float = 0.2,
        drop_rate: float = 0.5,
    ):
        super().__init__()
        check_choice("base", base, (*_KERNELS, "imagenet"))
        check_choice("pooling", pooling, POOLINGS if base != "imagenet" else ("conv",))
        check_choice("head_padding", head_padding, (True, False))
        check_choice("class_relu", class_relu, (True, False))
        self.class_relu = class_relu
        self.input_drop = nn.Dropout(input_drop_rate)
        self.stages = nn.Sequential()
        self.feature_info: list[dict[str, Any]] = []
        channels, reduction = in_chans, 1
        for index, (convs, pool) in enumerate(_IMAGENET if base == "imagenet" else cifar_stages(base, pooling)):
            self.stages.append(_stage(channels, convs, pool, drop_rate))
            channels = convs[-1][0]
            for _, _, stride, _ in convs:
                reduction *= stride
            reduction *= 2 if pool else 1
            self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": f"stages.{index}"})
        self.num_features = self.head_hidden_size = 1024 if base == "imagenet" else channels
        self.head = _convolutions(
            channels, ((self.num_features, 3, 1, int(head_padding)), (self.num_features, 1, 1, 0))
        )
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _draw(module)

    def make_classifier(self, num_classes: int, **place: Any) -> nn.Module:
        """A 1x1 convolution to one map per class."""
        return _draw(nn.Conv2d(self.num_features, num_classes, 1, **place))

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map before the classifier."""
        return self.head(self.stages(self.input_drop(x_NCHW)))

    def forward_head(self, x_NCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """Classify every pixel, then pool; `pre_logits` pools the features instead."""
        if not self.global_pool:
            return x_NCHW
        if pre_logits or not self.num_classes:
            return x_NCHW.mean((2, 3))
        y_NCHW = self.get_classifier()(x_NCHW)
        return (y_NCHW.relu() if self.class_relu else y_NCHW).mean((2, 3))


def _draw(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.xavier_normal_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _convolutions(channels: int, convs: tuple[tuple[int, int, int, int], ...]) -> nn.Sequential:
    """Convolutions with biases, each followed by a ReLU."""
    layers = nn.Sequential()
    widths = [channels, *(conv[0] for conv in convs)]
    for number, ((inputs, width), (_, kernel, stride, padding)) in enumerate(zip(pairwise(widths), convs, strict=True)):
        layers.add_module(f"conv{number + 1}", nn.Conv2d(inputs, width, kernel, stride, padding))
        layers.add_module(f"relu{number + 1}", nn.ReLU(inplace=True))
    return layers


def _stage(channels: int, convs: tuple[tuple[int, int, int, int], ...], pool: bool, drop_rate: float) -> nn.Sequential:
    stage = _convolutions(channels, convs)
    if pool:
        stage.add_module("pool", nn.MaxPool2d(3, 2, 1))
    stage.add_module("drop", nn.Dropout(drop_rate))
    return stage


_FORMS = {"base": "max", "strided": "strided", "conv_pool": "conv_pool"}
_NAMES = [f"all_cnn_{x}" for x in _KERNELS] + [f"all_cnn_{form}_{x}" for form in _FORMS for x in _KERNELS]

default_cfgs = generate_default_cfgs(
    {
        **{f"{name}.untrained": cifar_cfg("stages.0.conv1", "classifier") for name in _NAMES},
        "all_cnn_imagenet.untrained": imagenet_cfg("stages.0.conv1", "classifier"),
    }
)


def _build(name: str, base: str, pooling: str, pretrained: bool, arguments: dict[str, Any]) -> AllCNN:
    return build_model_with_cfg(AllCNN, name, pretrained, **({"base": base, "pooling": pooling} | arguments))


@register_model
def all_cnn_base_a(pretrained: bool = False, **arguments: Any) -> AllCNN:
    """Model A, with max pooling: 839,242 parameters."""
    return _build("all_cnn_base_a", "a", "max", pretrained, arguments)


@register_model
def all_cnn_base_b(pretrained: bool = False, **arguments: Any) -> AllCNN:
    """Model B, with max pooling: 885,610 parameters."""
    return _build("all_cnn_base_b", "b", "max", pretrained, arguments)


@register_model
def all_cnn_base_c(pretrained: bool = False, **arguments: Any) -> AllCNN:
    """Model C, with max pooling: 954,730 parameters."""
    return _build("all_cnn_base_c", "c", "max", pretrained, arguments)


@register_model
def all_cnn_strided_a(pretrained: bool = False, **arguments: Any) -> AllCNN:
    """Strided-CNN-A: 839,242 parameters."""
    return _build("all_cnn_strided_a", "a", "strided", pretrained, arguments)


@register_model
def all_cnn_strided_b(pretrained: bool = False, **arguments: Any) -> AllCNN:
    """Strided-CNN-B: 885,610 parameters."""
    return _build("all_cnn_strided_b", "b", "strided", pretrained, arguments)


@register_model
def all_cnn_strided_c(pretrained: bool = False, **arguments: Any) -> AllCNN:
    """Strided-CNN-C: 954,730 parameters."""
    return _build("all_cnn_strided_c", "c", "strided", pretrained, arguments)


@register_model
def all_cnn_conv_pool_a(pretrained: bool = False, **arguments: Any) -> AllCNN:
    """ConvPool-CNN-A: 1,254,250 parameters."""
    return _build("all_cnn_conv_pool_a", "a", "conv_pool", pretrained, arguments)


@register_model
def all_cnn_conv_pool_b(pretrained: bool = False, **arguments: Any) -> AllCNN:
    """ConvPool-CNN-B: 1,300,618 parameters."""
    return _build("all_cnn_conv_pool_b", "b", "conv_pool", pretrained, arguments)


@register_model
def all_cnn_conv_pool_c(pretrained: bool = False, **arguments: Any) -> AllCNN:
    """ConvPool-CNN-C: 1,369,738 parameters."""
    return _build("all_cnn_conv_pool_c", "c", "conv_pool", pretrained, arguments)


@register_model
def all_cnn_a(pretrained: bool = False, **arguments: Any) -> AllCNN:
    """All-CNN-A: 1,254,250 parameters."""
    return _build("all_cnn_a", "a", "conv", pretrained, arguments)


@register_model
def all_cnn_b(pretrained: bool = False, **arguments: Any) -> AllCNN:
    """All-CNN-B: 1,300,618 parameters."""
    return _build("all_cnn_b", "b", "conv", pretrained, arguments)


@register_model
def all_cnn_c(pretrained: bool = False, **arguments: Any) -> AllCNN:
    """All-CNN-C: 1,369,738 parameters."""
    return _build("all_cnn_c", "c", "conv", pretrained, arguments)


@register_model
def all_cnn_imagenet(pretrained: bool = False, **arguments: Any) -> AllCNN:
    """The larger All-CNN-B for ImageNet, 12 convolutions: 9,372,840 parameters."""
    arguments = {"input_drop_rate": 0.0} | arguments
    return _build("all_cnn_imagenet", "imagenet", "conv", pretrained, arguments)
