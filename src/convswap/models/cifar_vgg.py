"""VGG-16 for images of about 32x32 pixels (after arXiv:1409.1556), registered with timm: the host of Ghost-VGG-16.

`cifar_vgg16` is the 13 convolutions with BatchNorm and one linear layer; `cifar_vgg16_h512` has a hidden layer of 512
before it, which makes the 15.0 M parameters that the literature on CIFAR-10 prints for VGG-16.

Importing this module imports timm; afterwards `timm.create_model("cifar_vgg16")` works.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import check_choice
from .classifier import Classifier, cifar_cfg
from .state import unwrap_state_dict

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class CifarVGG(Classifier):
    """VGG-16 in five stages of 3x3 convolutions with BatchNorm and ReLU, each followed by 2x2 max pooling.

    The convolutions have no bias (the BatchNorm behind them has one). (N, in_chans, H, W), H and W at least 32,
    -> (N, num_classes).

    Args:
        hidden: whether a linear layer of 512 with ReLU stands before the classifier.
        num_classes: outputs of the classifier; 0 leaves it out and returns the features before it.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to leave the feature map unpooled (then without classifier).
        drop_rate: dropout before the classifier while training.

    Raises:
        ValueError: `hidden` is not a truth value, or a classifier has no pooling before it.
    """

    def __init__(
        self,
        *,
        hidden: bool = False,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ):
        super().__init__()
        check_choice("hidden", hidden, (True, False))
        self.num_features = self.head_hidden_size = _STAGES[-1][-1]
        channels = in_chans
        self.stages = nn.Sequential()
        self.feature_info = []
        for index, widths in enumerate(_STAGES):
            stage = nn.Sequential()
            for number, width in enumerate(widths, start=1):
                stage.add_module(f"conv{number}", nn.Conv2d(channels, width, 3, padding=1, bias=False))
                stage.add_module(f"bn{number}", nn.BatchNorm2d(width))
                stage.add_module(f"act{number}", nn.ReLU(inplace=True))
                channels = width
            stage.add_module("pool", nn.MaxPool2d(2))
            self.stages.append(stage)
            self.feature_info.append({"num_chs": channels, "reduction": 2 << index, "module": f"stages.{index}"})
        self.pre_logits: nn.Module = nn.Identity()
        if hidden:
            self.pre_logits = nn.Sequential(nn.Linear(self.num_features, self.num_features), nn.ReLU(inplace=True))
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map, (N, 512, H/32, W/32)."""
        return self.stages(x_NCHW)

    def forward_head(self, x_NCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify a feature map; `pre_logits` stops before the classifier."""
        if not self.global_pool:
            return x_NCHW
        x_NF = self.drop(self.pre_logits(x_NCHW.mean((2, 3))))
        return x_NF if pre_logits else self.get_classifier()(x_NF)


def _cfg() -> dict[str, Any]:
    return cifar_cfg("stages.0.conv1", "linear") | {"pool_size": (1, 1)}


default_cfgs = generate_default_cfgs({f"{name}.untrained": _cfg() for name in ("cifar_vgg16", "cifar_vgg16_h512")})


def _build(name: str, pretrained: bool, arguments: dict[str, Any]) -> CifarVGG:
    return build_model_with_cfg(
        CifarVGG,
        name,
        pretrained,
        pretrained_filter_fn=lambda state, model: unwrap_state_dict(state),
        **arguments,
    )


@register_model
def cifar_vgg16(pretrained: bool = False, **arguments: Any) -> CifarVGG:
    """VGG-16 for CIFAR with one linear layer: 14,724,042 parameters."""
    return _build("cifar_vgg16", pretrained, arguments)


@register_model
def cifar_vgg16_h512(pretrained: bool = False, **arguments: Any) -> CifarVGG:
    """VGG-16 for CIFAR with a hidden layer of 512 before the classifier: 14,986,698 parameters."""
    return _build("cifar_vgg16_h512", pretrained, {"hidden": True, **arguments})
