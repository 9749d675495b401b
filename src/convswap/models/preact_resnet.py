"""The pre-activation ResNet-18 for CIFAR that RMNet (arXiv:2111.00687) turns into a plain chain, for timm.

A 3x3 stem, then four stages of two blocks with 64, 128, 256 and 512 maps (arXiv:1603.05027): `x + conv2(relu(bn2(
conv1(relu(bn1(x))))))`. Where the shape changes, the shortcut is a 1x1 convolution of `relu(bn1(x))`. Inferred: a
BatchNorm and a ReLU stand before the pooling, as in that paper. The sizes of the authors' program fit with and without.

`convswap.remove_residuals` gives the plain chain ("ResVGG"): each block's input doubles, and one half passes.

Importing this module imports timm; afterwards `timm.create_model("preactresvgg18")` works.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from .classifier import Classifier, cifar_cfg

WIDTHS = (64, 128, 256, 512)


class PreActBlock(nn.Module):
    """(N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride)), normalised and rectified before convolutions."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.act1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act2 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Add the trunk to the input, or to the projection of the rectified input."""
        h_NCHW = self.act1(self.bn1(x_NCHW))
        y_NCHW = self.conv2(self.act2(self.bn2(self.conv1(h_NCHW))))
        return y_NCHW + (x_NCHW if self.downsample is None else self.downsample(h_NCHW))


class PreActResNet(Classifier):
    """A pre-activation network for images of about 32x32 pixels: (N, in_chans, H, W) -> (N, num_classes).

    Args:
        layers: the blocks of each stage.
        num_classes: outputs of the classifier; 0 leaves it out and returns the 512 features.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to leave the feature map unpooled (then without classifier).
        drop_rate: dropout before the classifier while training.

    Raises:
        ValueError: an argument is not allowed.
    """

    can_checkpoint = True

    def __init__(
        self,
        layers: tuple[int, ...] = (2, 2, 2, 2),
        *,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, WIDTHS[0], 3, 1, 1, bias=False)
        self.stages, channels = nn.Sequential(), WIDTHS[0]
        self.feature_info: list[dict[str, Any]] = []
        for index, (blocks, width) in enumerate(zip(layers, WIDTHS, strict=False)):
            first = PreActBlock(channels, width, 2 if index else 1)
            self.stages.append(nn.Sequential(first, *(PreActBlock(width, width) for _ in range(blocks - 1))))
            channels = width
            self.feature_info.append({"num_chs": width, "reduction": 1 << index, "module": f"stages.{index}"})
        self.num_features = self.head_hidden_size = channels
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map, rectified, (N, 512, H/8, W/8)."""
        x_NCHW = self.conv1(x_NCHW)
        for stage in self.stages:
            x_NCHW = self.run_stage(stage, x_NCHW)
        return self.act(self.norm(x_NCHW))


default_cfgs = generate_default_cfgs({"preactresvgg18.untrained": cifar_cfg("conv1", "linear") | {"pool_size": (4, 4)}})


@register_model
def preactresvgg18(pretrained: bool = False, **arguments: Any) -> PreActResNet:
    """Pre-activation ResNet-18 for CIFAR: 11,172,170 parameters, as a plain chain 30,724,618."""
    return build_model_with_cfg(PreActResNet, "preactresvgg18", pretrained, **arguments)
