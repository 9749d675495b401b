"""Every network family of this package: importing this module registers them all with timm."""

from . import cifar_resnet, cifar_vgg, g_ghost_regnet, mgic_mobilenetv3, mgic_resnet, sknet, vgnet

__all__ = ["cifar_resnet", "cifar_vgg", "g_ghost_regnet", "mgic_mobilenetv3", "mgic_resnet", "sknet", "vgnet"]
