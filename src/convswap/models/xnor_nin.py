"""The CIFAR-10 Network-in-Network of XNOR-Net (arXiv:1603.05279), as the PyTorch program has it; a timm name.

Layers and sizes: jiecaoyu/XNOR-Net-PyTorch, CIFAR_10/models/nin.py. First and last convolution are full precision.

Importing this module imports timm; afterwards `timm.create_model("xnor_nin")` works.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..hooks import Hooks
from ..units import XnorConv2d
from .classifier import Classifier, cifar_cfg

_WIDTH = 192
_SMALLEST_SCALE = 0.01


class XnorNIN(Hooks, Classifier):
    """Network-in-Network of seven XNOR blocks (BatchNorm - sign - [dropout] - convolution - ReLU) in three stages.

    (N, in_chans, H, W) -> (N, num_classes): the last 1x1 convolution gives one map per class, which is rectified and
    averaged. The training loop calls `constrain_()`, which keeps the scales of the blocks' BatchNorms at 0.01 or more,
    as the program does, so that no threshold is reversed.

    Args:
        sign_drop_rate: dropout of signs at the beginning of the second and third stage while training.
        input_scale: the unit's option: `"none"`, as in the program, or the paper's `"K"`.
        num_classes: outputs of the classifier; 0 leaves it out and returns the 192 features.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to leave the feature map unpooled (then without classifier).
        drop_rate: dropout of whole maps before the classifier while training; the program has none.

    Raises:
        ValueError: an argument is not allowed.
    """

    classifier_name = "classifier"

    def __init__(
        self,
        *,
        sign_drop_rate: float = 0.5,
        input_scale: str = "none",
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ):
        super().__init__()
        self.num_features = self.head_hidden_size = _WIDTH
        self.feature_info = [
            {"num_chs": 96, "reduction": 2, "module": "stages.0"},
            {"num_chs": _WIDTH, "reduction": 4, "module": "stages.1"},
            {"num_chs": _WIDTH, "reduction": 4, "module": "stages.2"},
        ]

        def block(channels: int, out: int, kernel: int = 1, drop: float = 0.0) -> list[nn.Module]:
            unit = XnorConv2d(channels, out, kernel, padding=kernel // 2, input_scale=input_scale, dropout=drop)
            return [unit, nn.ReLU(inplace=True)]

        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, _WIDTH, 5, padding=2),
            nn.BatchNorm2d(_WIDTH, eps=1e-4, affine=False),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.Sequential(
            nn.Sequential(*block(_WIDTH, 160), *block(160, 96), nn.MaxPool2d(3, 2, 1)),
            nn.Sequential(
                *block(96, _WIDTH, 5, sign_drop_rate),
                *block(_WIDTH, _WIDTH),
                *block(_WIDTH, _WIDTH),
                nn.AvgPool2d(3, 2, 1),
            ),
            nn.Sequential(*block(_WIDTH, _WIDTH, 3, sign_drop_rate), *block(_WIDTH, _WIDTH)),
        )
        self.norm = nn.BatchNorm2d(_WIDTH, eps=1e-4, affine=False)
        self.drop = nn.Dropout2d(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.05)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def make_classifier(self, num_classes: int, **place: Any) -> nn.Module:
        """A 1x1 convolution to one map per class."""
        conv = nn.Conv2d(self.num_features, num_classes, 1, **place)
        nn.init.normal_(conv.weight, std=0.05)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        return conv

    @torch.no_grad()
    def constrain_(self) -> None:
        """Keep the scales of the XNOR blocks' BatchNorms at 0.01 or more, in place."""
        for module in self.modules():
            if isinstance(module, XnorConv2d) and module.bn is not None:
                module.bn.weight.clamp_(min=_SMALLEST_SCALE)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last normalised feature map, (N, 192, H/4, W/4)."""
        return self.norm(self.stages(self.stem(x_NCHW)))

    def forward_head(self, x_NCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """Classify every pixel, rectify, pool; `pre_logits` pools the features instead."""
        if not self.global_pool:
            return x_NCHW
        x_NCHW = self.drop(x_NCHW)
        if pre_logits or not self.num_classes:
            return x_NCHW.mean((2, 3))
        return self.get_classifier()(x_NCHW).relu().mean((2, 3))


default_cfgs = generate_default_cfgs({"xnor_nin.untrained": cifar_cfg("stem.0", "classifier")})


@register_model
def xnor_nin(pretrained: bool = False, **arguments: Any) -> XnorNIN:
    """XNOR-Net Network-in-Network for CIFAR-10."""
    return build_model_with_cfg(XnorNIN, "xnor_nin", pretrained, **arguments)
