"""Every network family of this package: importing this module registers them all with timm."""

from . import cifar_resnet

__all__ = ["cifar_resnet"]
