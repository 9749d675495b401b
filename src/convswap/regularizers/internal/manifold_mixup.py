"""Manifold mixup: images are mixed inside the network, at a depth drawn anew (Verma et al., arXiv:1806.05236)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import TrainingError, check_choice, check_number, check_whole
from ..contract import Forward, Objective, Outcome, Regularizer, Setting, class_weights, hard_labels
from ..registry import register_regularizer
from .attaching import MethodHook
from .places import Places


def mix(x: Tensor, share: Tensor, order: Tensor) -> Tensor:
    """share x_i + (1 - share) x_order(i), image by image."""
    return x.lerp(x[order], (1 - share).to(x.dtype))


class Mixing(MethodHook):
    """A forward hook that mixes the images of one map, in the steps that ask for it.

    Attributes:
        owner: the module whose mode tells training from evaluation.
        share: what stays of each image, None in a step that mixes elsewhere.
        order: the images' partners.
        mixed: whether the hook has run since it was asked.
    """

    def __init__(self, owner: nn.Module) -> None:
        self.owner = owner
        self.share: Tensor | None = None
        self.order: Tensor | None = None
        self.mixed = False

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        """Mix the output, or leave it."""
        if self.share is None or self.order is None or not self.owner.training:
            return output
        self.mixed = True
        return mix(output, self.share, self.order)


def binary_loss(logits: Tensor, weights: Tensor) -> Tensor:
    """The loss of the authors' program: the binary cross entropy of the softmax, mean over images and classes.

    In float32, and with each logarithm at least -100, as `nn.BCELoss` has it.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return F.binary_cross_entropy(logits.float().softmax(1), weights)


class _MixingObjective(Objective):
    def __init__(self, inner: Objective, method: ManifoldMixup, model: nn.Module, setting: Setting) -> None:
        self.inner, self.method, self.setting = inner, method, setting
        places = Places(model, setting, method.name)
        stages = places.chosen_stages("")[: method.deepest]
        self.hooks = [Mixing(places.owner(stage.path)) for stage in stages]
        self.paths = [stage.path for stage in stages]
        pairs = zip(stages, self.hooks, strict=True)
        self.handles = [stage.module.register_forward_hook(hook) for stage, hook in pairs]

    def step(self, forward: Forward, images: Tensor, targets: Tensor) -> Outcome:
        """Draw depth, share and partners, run the network, and mix the targets alike."""
        depth = int(torch.randint(len(self.hooks) + 1, ()))
        alpha = torch.tensor(self.method.alpha, dtype=torch.float64)
        share = torch.distributions.Beta(alpha, alpha).sample()
        order = torch.randperm(len(images)).to(images.device)
        share = share.to(device=images.device, dtype=torch.float32)
        for number, hook in enumerate(self.hooks, 1):
            chosen = number == depth
            hook.share, hook.order, hook.mixed = (share, order, False) if chosen else (None, None, False)
        if depth == 0:
            images = mix(images, share, order)
        logits = forward(images)
        if depth and not self.hooks[depth - 1].mixed:
            raise TrainingError(
                f"regularizer 'manifold_mixup': the network does not call {self.paths[depth - 1]} while it trains; "
                "use mixup"
            )
        weights = class_weights(targets, self.setting.num_classes)
        weights = mix(weights, share, order)
        return Outcome(self.loss(logits, weights), logits, hard_labels(weights))

    def loss(self, logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """The recipe's loss of soft targets, or that of the authors' program."""
        if self.method.loss == "binary":
            return binary_loss(logits, targets)
        return self.inner.loss(logits, targets, reduction)

    def begin_epoch(self, epoch: int) -> None:
        """Tell the inner objective."""
        self.inner.begin_epoch(epoch)

    def progress(self, done: float) -> None:
        """Tell the inner objective."""
        self.inner.progress(done)

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self.handles:
            handle.remove()
        self.inner.detach()


@register_regularizer
@dataclass(frozen=True)
class ManifoldMixup(Regularizer):
    """h_k <- l h_k + (1 - l) h_k[order], y <- l y + (1 - l) y[order], l ~ Beta(alpha, alpha), k drawn for each step.

    k is 0 (the images) or one of the first stages, as in the paper: after the first and the second. Depth, share and
    partners are the same for the whole batch of one process. Evaluation is the identity.

    Attributes:
        alpha: of the Beta distribution; 2 is the paper's.
        deepest: the last stage that may be drawn.
        loss: `"cross_entropy"`, the recipe's with soft targets, or `"binary"`, the binary cross entropy of the softmax,
            which the authors' program computes.
    """

    name, family, place = "manifold_mixup", "internal", "step"
    paper = "Verma et al., arXiv:1806.05236, 2018"
    summary = "pairs of images, at the input or behind one of the first stages"
    alone = "mixer"
    soft_targets = True

    alpha: float = 2.0
    deepest: int = 2
    loss: str = "cross_entropy"

    def check(self) -> None:
        """Refuse an alpha of 0 or less, a depth below 1 and an unknown loss."""
        check_number("alpha", self.alpha, lambda v: v > 0, "a number above 0")
        check_whole("deepest", self.deepest)
        check_choice("loss", self.loss, ("cross_entropy", "binary"))

    def objective(self, inner: Objective, model: nn.Module, setting: Setting) -> Objective:
        """Mix, then compute the inner loss."""
        return _MixingObjective(inner, self, model, setting)
