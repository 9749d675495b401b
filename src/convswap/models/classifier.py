"""The common part of this package's image classifiers: pooling, the last layer, and timm's description."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError, check_choice
from .checkpointing import checkpointed_stage

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Classifier(nn.Module):
    """Base of networks that define `forward_features`: pooling, classifier and the methods that timm's users call.

    A subclass sets `num_features`, builds its layers and calls `reset_classifier`. `classifier_name` is the attribute
    that holds the last layer. A subclass that runs its stages by `run_stage` says so by `can_checkpoint`.
    """

    classifier_name = "linear"
    can_checkpoint = False
    grad_checkpointing = False
    num_features: int
    global_pool: str

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a freshly drawn classifier of `num_classes` outputs (0: none) at the end.

        Raises:
            ValueError: `global_pool` is not one of the network's, or classes are asked for without pooling.
        """
        self.check_pool(num_classes, global_pool)
        self.num_classes = num_classes
        place = next(self.parameters())
        last = self.make_classifier(num_classes, device=place.device, dtype=place.dtype) if num_classes else None
        self.add_module(self.classifier_name, last or nn.Identity())

    def check_pool(self, num_classes: int, global_pool: str | None) -> None:
        """Set `global_pool` unless it is None, and refuse classes without pooling."""
        if global_pool is not None:
            check_choice("global_pool", global_pool, ("avg", ""))
            self.global_pool = global_pool
        if num_classes and not self.global_pool:
            raise UsageError(
                f"num_classes={num_classes} needs global_pool='avg'; an unpooled network has num_classes=0"
            )

    def make_classifier(self, num_classes: int, **place: Any) -> nn.Module:
        """The last layer, freshly drawn. By default it is linear on `num_features`, drawn by `init_classifier`."""
        linear = nn.Linear(self.num_features, num_classes, **place)
        self.init_classifier(linear)
        return linear

    def init_classifier(self, linear: nn.Linear) -> None:
        """Draw the classifier's weights, by default as `nn.Linear` does."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether training computes the insides of blocks again in the backward pass, to save memory.

        The name is timm's. Results stay the same, also running statistics (`convswap.models.checkpointing`).

        Raises:
            ValueError: the network has no blocks to run again.
        """
        check_choice("enable", enable, (True, False))
        if enable and not self.can_checkpoint:
            raise UsageError(f"{type(self).__name__} has no activation checkpointing; train it without")
        self.grad_checkpointing = enable

    def run_stage(self, stage: nn.Module, x_NCHW: Tensor) -> Tensor:
        """A stage of the network, checkpointed if that is asked for."""
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            return checkpointed_stage(stage, x_NCHW)
        return stage(x_NCHW)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map."""
        raise NotImplementedError(f"{type(self).__name__} must define forward_features()")

    def forward_head(self, x_NCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify a feature map; `pre_logits` stops before the classifier."""
        if not self.global_pool:
            return x_NCHW
        x_NF = x_NCHW.mean((2, 3))
        if isinstance(drop := getattr(self, "drop", None), nn.Module):
            x_NF = drop(x_NF)
        return x_NF if pre_logits else self.get_classifier()(x_NF)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Images to logits."""
        return self.forward_head(self.forward_features(x_NCHW))


def draw_small(linear: nn.Linear) -> None:
    """N(0, 0.01) weights and a bias of 0."""
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)


def cifar_cfg(first_conv: str, classifier: str) -> dict[str, Any]:
    """timm's description of a network for 32x32 images, without weights, in CIFAR-10's mean and deviation."""
    return {
        "url": "",
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
        "first_conv": first_conv,
        "classifier": classifier,
    }


def imagenet_cfg(first_conv: str, classifier: str) -> dict[str, Any]:
    """timm's description of a network for 224x224 images, without weights, in ImageNet's mean and deviation."""
    return cifar_cfg(first_conv, classifier) | {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    }
