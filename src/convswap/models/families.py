"""Every network family of this package: importing this module registers them all with timm."""

from . import cifar_resnet, mgic_mobilenetv3, mgic_resnet, sknet, vgnet

__all__ = ["cifar_resnet", "mgic_mobilenetv3", "mgic_resnet", "sknet", "vgnet"]
