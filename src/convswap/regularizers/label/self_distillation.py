"""Self-distillation: the network of the last epoch teaches the network of this one."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import check_number
from ..contract import Forward, Objective, Outcome, Regularizer, Setting, class_weights, hard_labels
from ..registry import register_regularizer


class Progressive(Objective):
    """The objective of progressive self-distillation. Its teacher is the network as the checkpoint holds it."""

    def __init__(self, inner: Objective, model: nn.Module, most: float, setting: Setting) -> None:
        self.inner, self.model, self.most, self.setting = inner, model, most, setting
        self.teacher: nn.Module | None = None
        self.part = 0.0

    def begin_epoch(self, epoch: int) -> None:
        """From the second epoch on, the network as it is now becomes the teacher."""
        self.part = self.most * epoch / self.setting.epochs
        if epoch == 1:
            return
        if self.teacher is None:
            self.teacher = copy.deepcopy(self.model).requires_grad_(False)
        self.teacher.load_state_dict(self.model.state_dict())
        self.teacher.eval()

    def progress(self, done: float) -> None:
        """For a smoothing that changes."""
        self.inner.progress(done)

    def loss(self, logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """The recipe's loss."""
        return self.inner.loss(logits, targets, reduction)

    def step(self, forward: Forward, images: Tensor, targets: Tensor) -> Outcome:
        """The loss with targets that the teacher has softened."""
        logits = forward(images)
        labels = hard_labels(targets)
        if self.teacher is not None:
            with torch.no_grad(), self.setting.autocast():
                answer = F.softmax(self.teacher(images).float(), 1)
            targets = torch.lerp(class_weights(targets, logits.shape[1]), answer, self.part)
        return Outcome(self.loss(logits, targets), logits, labels)


@register_regularizer
@dataclass(frozen=True)
class SelfDistillation(Regularizer):
    """In epoch t of T: y = (1 - a) y + a p, with a = `most` t / T and p the answer of the network after epoch t - 1.

    The first epoch has the labels alone. The teacher sees the same augmented and mixed images as the network, in
    evaluation mode. (The authors keep the answers that the last epoch gave to its own augmented images.)

    Args:
        most: the weight of the teacher in the last epoch, 0.8 in the paper.
    """

    name = "self_distillation"
    family = "label"
    place = "step"
    paper = "Self-knowledge distillation with progressive refinement of targets, arXiv:2006.12000 (2020)"
    summary = "labels softened by the answers of the network of the last epoch"
    cost = "a second forward pass, without gradients, and a copy of the network"
    alone = "targets"
    soft_targets = True
    replaces_smoothing = True
    separable = True

    most: float = 0.8

    def check(self) -> None:
        """The weight lies between 0 and 1."""
        check_number("most", self.most, lambda v: 0 < v < 1, "a number above 0 and below 1")

    def objective(self, inner: Objective, model: nn.Module, setting: Setting) -> Objective:
        """The loss with a teacher."""
        return Progressive(inner, model, self.most, setting)
