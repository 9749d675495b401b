"""The CIFAR residual networks of He et al. (arXiv:1512.03385, section 4.2), registered with timm.

`cifar_resnet8/20/32/44/56/110/1202` use the shortcut without parameters of the paper (option A: take every second
pixel, pad with zero channels); the names ending in `_b` use a 1x1 convolution with BatchNorm where the shape
changes (option B). Parameter names and the place of the zero channels (half before, half after) are those of
the widely used weights of akamaster/pytorch_resnet_cifar10, so these load after `module.` is stripped.

Importing this module imports timm; afterwards `timm.create_model("cifar_resnet20")` works.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import check_choice
from ..hooks import Hooks
from .classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier, cifar_cfg
from .state import unwrap_state_dict


class PadShortcut(Hooks, nn.Module):
    """Option A: take every `stride`-th pixel and add zero channels on both sides. No parameters.

    After pruning, `source` names the input channel that each output channel takes, -1 for a zero channel.

    >>> import torch
    >>> PadShortcut(16, 32, stride=2)(torch.ones(1, 16, 8, 8)).shape
    torch.Size([1, 32, 4, 4])
    """

    _taken: Tensor

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        if out_channels < in_channels:
            raise ValueError(f"out_channels={out_channels} must be at least in_channels={in_channels}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before
        self.source: list[int] | None = None

    def narrow(self, inputs: Sequence[int] | None, outputs: Sequence[int] | None) -> None:
        """Keep some channels of the input and of the output. Outputs whose input has gone become zero channels."""
        source = self.source or [*[-1] * self.before, *range(self.in_channels), *[-1] * self.after]
        if inputs is not None:
            moved = {channel: position for position, channel in enumerate(inputs)}
            source = [moved.get(channel, -1) for channel in source]
            self.in_channels = len(inputs)
        self.source = source if outputs is None else [source[channel] for channel in outputs]
        self.out_channels = len(self.source)
        taken = [self.in_channels if channel < 0 else channel for channel in self.source]
        self.register_buffer("_taken", torch.tensor(taken), persistent=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Subsample, then pad the channels."""
        x_NCHW = x_NCHW[:, :, :: self.stride, :: self.stride]
        if self.source is None:
            return F.pad(x_NCHW, (0, 0, 0, 0, self.before, self.after))
        return F.pad(x_NCHW, (0, 0, 0, 0, 0, 1)).index_select(1, self._taken)

    def extra_repr(self) -> str:
        """Show the numbers in `print(model)`."""
        if self.source is not None:
            return f"stride={self.stride}, source={self.source}"
        return f"stride={self.stride}, zero_channels=({self.before}, {self.after})"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm around a shortcut: `relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))`."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, shortcut: str = "A"):
        super().__init__()
        check_choice("shortcut", shortcut, ("A", "B"))
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act2 = nn.ReLU()
        self.shortcut: nn.Module
        if stride == 1 and in_channels == out_channels:
            self.shortcut = nn.Identity()
        elif shortcut == "A":
            self.shortcut = PadShortcut(in_channels, out_channels, stride)
        else:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Add the residual branch to the shortcut."""
        residual = self.act1(self.bn1(self.conv1(x_NCHW)))
        residual = self.bn2(self.conv2(residual))
        return self.act2(residual + self.shortcut(x_NCHW))


class CifarResNet(Classifier):
    """A residual network of `6 * blocks + 2` layers for images of about 32x32 pixels.

    Args:
        blocks: residual blocks in each of the three stages (3 makes ResNet-20).
        shortcut: `"A"` (subsample and zero channels) or `"B"` (1x1 convolution) where the shape changes.
        num_classes: outputs of the classifier; 0 leaves it out and returns the 64 features.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to leave the feature map unpooled (then without classifier).
        drop_rate: dropout before the classifier while training.
    """

    can_checkpoint = True

    def __init__(
        self,
        blocks: int,
        *,
        shortcut: str = "A",
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ):
        super().__init__()
        self.num_features = self.head_hidden_size = 64
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = nn.ReLU()
        self.layer1 = _stage(16, 16, blocks, 1, shortcut)
        self.layer2 = _stage(16, 32, blocks, 2, shortcut)
        self.layer3 = _stage(32, 64, blocks, 2, shortcut)
        self.feature_info = [
            {"num_chs": 16, "reduction": 1, "module": "layer1"},
            {"num_chs": 32, "reduction": 2, "module": "layer2"},
            {"num_chs": 64, "reduction": 4, "module": "layer3"},
        ]
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def init_classifier(self, linear: nn.Linear) -> None:
        """As the convolutions."""
        nn.init.kaiming_normal_(linear.weight)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map, (N, 64, H/4, W/4)."""
        x_NCHW = self.act1(self.bn1(self.conv1(x_NCHW)))
        for stage in (self.layer1, self.layer2, self.layer3):
            x_NCHW = self.run_stage(stage, x_NCHW)
        return x_NCHW


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int, shortcut: str) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride, shortcut=shortcut)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, shortcut=shortcut) for _ in range(blocks - 1)))


_URL = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"


def _cfg(file: str = "") -> dict[str, Any]:
    # The published weights were trained with ImageNet's mean and standard deviation, not CIFAR's.
    trained = {"url": _URL + file if file else "", "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return cifar_cfg("conv1", "linear") | trained


default_cfgs = generate_default_cfgs(
    {
        "cifar_resnet8.untrained": _cfg(),
        "cifar_resnet20.akamaster_cifar10": _cfg("resnet20-12fca82f.th"),
        "cifar_resnet32.akamaster_cifar10": _cfg("resnet32-d509ac18.th"),
        "cifar_resnet44.akamaster_cifar10": _cfg("resnet44-014dd654.th"),
        "cifar_resnet56.akamaster_cifar10": _cfg("resnet56-4bfd9763.th"),
        "cifar_resnet110.akamaster_cifar10": _cfg("resnet110-1d1ed7c2.th"),
        "cifar_resnet1202.akamaster_cifar10": _cfg("resnet1202-f3b1deed.th"),
        **{f"cifar_resnet{depth}_b.untrained": _cfg() for depth in (8, 20, 32, 44, 56, 110, 1202)},
    }
)


def _build(name: str, depth: int, shortcut: str, pretrained: bool, arguments: dict[str, Any]) -> CifarResNet:
    return build_model_with_cfg(
        CifarResNet,
        name,
        pretrained,
        blocks=(depth - 2) // 6,
        shortcut=shortcut,
        pretrained_filter_fn=lambda state, model: unwrap_state_dict(state),
        **arguments,
    )


@register_model
def cifar_resnet8(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-8 (one block a stage), option A: small enough for tests and demonstrations."""
    return _build("cifar_resnet8", 8, "A", pretrained, arguments)


@register_model
def cifar_resnet20(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-20, option A: 269,722 parameters."""
    return _build("cifar_resnet20", 20, "A", pretrained, arguments)


@register_model
def cifar_resnet32(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-32, option A: 464,154 parameters."""
    return _build("cifar_resnet32", 32, "A", pretrained, arguments)


@register_model
def cifar_resnet44(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-44, option A: 658,586 parameters."""
    return _build("cifar_resnet44", 44, "A", pretrained, arguments)


@register_model
def cifar_resnet56(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-56, option A: 853,018 parameters."""
    return _build("cifar_resnet56", 56, "A", pretrained, arguments)


@register_model
def cifar_resnet110(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-110, option A: 1,727,962 parameters."""
    return _build("cifar_resnet110", 110, "A", pretrained, arguments)


@register_model
def cifar_resnet1202(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-1202, option A: 19,421,274 parameters. `set_grad_checkpointing()` saves much memory in training."""
    return _build("cifar_resnet1202", 1202, "A", pretrained, arguments)


@register_model
def cifar_resnet8_b(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-8, option B."""
    return _build("cifar_resnet8_b", 8, "B", pretrained, arguments)


@register_model
def cifar_resnet20_b(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-20, option B."""
    return _build("cifar_resnet20_b", 20, "B", pretrained, arguments)


@register_model
def cifar_resnet32_b(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-32, option B."""
    return _build("cifar_resnet32_b", 32, "B", pretrained, arguments)


@register_model
def cifar_resnet44_b(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-44, option B."""
    return _build("cifar_resnet44_b", 44, "B", pretrained, arguments)


@register_model
def cifar_resnet56_b(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-56, option B."""
    return _build("cifar_resnet56_b", 56, "B", pretrained, arguments)


@register_model
def cifar_resnet110_b(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-110, option B."""
    return _build("cifar_resnet110_b", 110, "B", pretrained, arguments)


@register_model
def cifar_resnet1202_b(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """ResNet-1202, option B."""
    return _build("cifar_resnet1202_b", 1202, "B", pretrained, arguments)
