"""RMNet (arXiv:2111.00687) by name: ordinary residual networks, which `convswap.remove_residuals` makes plain chains.

`rmnet18` and `rmnet34` are ResNet-18 and -34 (timm's class and parameter names) for ImageNet. `rmnet20` to `rmnet110`
are the CIFAR networks with 1x1 shortcuts (type B). They train as what they are. The name says what they are for.

Importing this module imports timm; afterwards `timm.create_model("rmnet18")` works.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet

from .cifar_resnet import CifarResNet
from .classifier import cifar_cfg, imagenet_cfg

_LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_CIFAR = (20, 32, 44, 56, 110)

default_cfgs = generate_default_cfgs(
    {
        **{f"rmnet{depth}.untrained": imagenet_cfg("conv1", "fc") for depth in _LAYERS},
        **{f"rmnet{depth}.untrained": cifar_cfg("conv1", "linear") for depth in _CIFAR},
    }
)


def _imagenet(depth: int, pretrained: bool, arguments: dict[str, Any]) -> ResNet:
    own: dict[str, Any] = {"block": BasicBlock, "layers": _LAYERS[depth]}
    return build_model_with_cfg(ResNet, f"rmnet{depth}", pretrained, **(own | arguments))


def _cifar(depth: int, pretrained: bool, arguments: dict[str, Any]) -> CifarResNet:
    own: dict[str, Any] = {"blocks": (depth - 2) // 6, "shortcut": "B"}
    return build_model_with_cfg(CifarResNet, f"rmnet{depth}", pretrained, **(own | arguments))


@register_model
def rmnet18(pretrained: bool = False, **arguments: Any) -> ResNet:
    """RMNet-18: 11,689,512 parameters, 20.18 M without residual connections."""
    return _imagenet(18, pretrained, arguments)


@register_model
def rmnet34(pretrained: bool = False, **arguments: Any) -> ResNet:
    """RMNet-34: 21,797,672 parameters, 40.38 M without residual connections."""
    return _imagenet(34, pretrained, arguments)


@register_model
def rmnet20(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """RMNet-20 for CIFAR: 272,474 parameters, 0.502 M without residual connections."""
    return _cifar(20, pretrained, arguments)


@register_model
def rmnet32(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """RMNet-32 for CIFAR."""
    return _cifar(32, pretrained, arguments)


@register_model
def rmnet44(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """RMNet-44 for CIFAR."""
    return _cifar(44, pretrained, arguments)


@register_model
def rmnet56(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """RMNet-56 for CIFAR: 855,770 parameters, 1.665 M without residual connections."""
    return _cifar(56, pretrained, arguments)


@register_model
def rmnet110(pretrained: bool = False, **arguments: Any) -> CifarResNet:
    """RMNet-110 for CIFAR: 1,730,714 parameters, 3.410 M without residual connections."""
    return _cifar(110, pretrained, arguments)
