"""Every network family of this package: importing this module registers them all with timm."""

from . import (
    binarynet,
    binarynet_resnet,
    cifar_densenet,
    cifar_resnet,
    cifar_vgg,
    g_ghost_regnet,
    harmonic_mnist,
    mgic_mobilenetv3,
    mgic_resnet,
    min_net,
    pide_net,
    sknet,
    vgnet,
    xnor_alexnet,
    xnor_nin,
    xnor_resnet,
)

__all__ = [
    "binarynet",
    "binarynet_resnet",
    "cifar_densenet",
    "cifar_resnet",
    "cifar_vgg",
    "g_ghost_regnet",
    "harmonic_mnist",
    "mgic_mobilenetv3",
    "mgic_resnet",
    "min_net",
    "pide_net",
    "sknet",
    "vgnet",
    "xnor_alexnet",
    "xnor_nin",
    "xnor_resnet",
]
