"""Logit distillation: a trained teacher says early in the training what it would answer, and then falls silent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError, check_choice, check_number
from ..contract import Forward, Objective, Outcome, Regularizer, Setting, Still
from ..registry import register_regularizer

STRENGTHS = {"mse": 0.1, "kl": 1.0}
"""The weight of each distance at the beginning, where none is given."""
_SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda u: max(0.0, 1 - u),
    "cosine": lambda u: (1 + math.cos(math.pi * u)) / 2 if u < 1 else 0.0,
    "constant": lambda u: 1.0 if u < 1 else 0.0,
}


def logit_distance(logits: Tensor, teacher: Tensor, kind: str = "mse", temperature: float = 4.0) -> Tensor:
    """How far two networks' answers are apart, image by image: (N,), in float32 at least.

    - `"mse"`: the mean over the classes of ((a - mean a) - (t - mean t))^2. Softmax ignores a constant, and so does
      this distance.
    - `"kl"`: T^2 KL(softmax(t / T) || softmax(a / T)) with the temperature T (Hinton, arXiv:1503.02531). For a large T
      it tends to half of `"mse"`.

    Args:
        logits: a, (N, classes).
        teacher: t, (N, classes).
        kind: `"mse"` or `"kl"`.
        temperature: T, for `"kl"` only.

    >>> logit_distance(torch.tensor([[1.0, 2.0]]), torch.tensor([[11.0, 12.0]]))
    tensor([0.])
    """
    precise = torch.promote_types(logits.dtype, torch.float32)
    a, t = logits.to(precise), teacher.to(precise)
    if kind == "mse":
        return ((a - a.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))).square().mean(1)
    target, found = (F.log_softmax(value / temperature, 1) for value in (t, a))
    return temperature**2 * (target.exp() * (target - found)).sum(1)


class _Counts(nn.Module):
    """How the network and the teacher fared in the last epoch: part of the checkpoint."""

    seen: Tensor
    student: Tensor
    teacher: Tensor
    silent: Tensor

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        for name in ("seen", "student", "teacher", "silent"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64, device=device))


class Distilled(Objective):
    """The objective with a teacher, who is asked only while its answer counts."""

    def __init__(self, inner: Objective, options: LogitDistillation, teacher: Forward, setting: Setting) -> None:
        self.inner, self.options, self.teacher, self.setting = inner, options, teacher, setting
        self.weight = self.strength = STRENGTHS[options.distance] if options.strength < 0 else options.strength
        self.companion = self.counts = _Counts(setting.device)
        self.silent = False
        self.known: Tensor | None = None
        self.index, self.place = torch.empty(0, dtype=torch.int64), 0

    def begin_epoch(self, epoch: int) -> None:
        """Compare the network with the teacher over the epoch before, and begin to count anew."""
        self.inner.begin_epoch(epoch)
        counts = self.counts
        better = bool(counts.seen > 0) and bool(counts.student >= counts.teacher)
        if self.options.stop_when_better and better:
            counts.silent.fill_(1)
        self.silent = bool(counts.silent)
        for count in (counts.seen, counts.student, counts.teacher):
            count.zero_()
        if self.setting.still is not None and not self.silent:
            self._look_up(self.setting.still, epoch)

    def _look_up(self, still: Still, epoch: int) -> None:
        """Answers to images that never change: asked once, in the order of the data set, so that a resume agrees."""
        if self.known is None:
            self.known = torch.cat([self._answer(images) for images in still.batches()])
        self.index, self.place = still.index(epoch), 0

    def _answer(self, images: Tensor) -> Tensor:
        with torch.inference_mode(), self.setting.autocast():
            answer = self.teacher(images)
        return answer.clone()  # a tensor of inference mode cannot take part in a backward pass

    def _answer_in_step(self, images: Tensor) -> Tensor:
        if self.known is None:
            return self._answer(images)
        rows = self.index[self.place : self.place + len(images)]
        self.place += len(images)
        return self.known[rows.to(self.known.device)]

    def progress(self, done: float) -> None:
        """The teacher's weight of this moment."""
        self.inner.progress(done)
        self.weight = self.strength * _SCHEDULES[self.options.schedule](done / self.options.end)

    def loss(self, logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """The recipe's loss."""
        return self.inner.loss(logits, targets, reduction)

    def step(self, forward: Forward, images: Tensor, targets: Tensor) -> Outcome:
        """The recipe's loss plus the weighted distance to the teacher."""
        outcome = self.inner.step(forward, images, targets)
        if self.silent or self.weight == 0:
            return outcome
        teacher = self._answer_in_step(images)
        if self.options.stop_when_better:
            self._count(outcome, teacher)
        distance = logit_distance(outcome.logits, teacher, self.options.distance, self.options.temperature)
        kept = self._kept(outcome, teacher)
        # Divided by all images: with few that count, each would otherwise weigh more.
        distance = distance.mean() if kept is None else torch.where(kept, distance, 0).mean()
        return outcome._replace(loss=outcome.loss + self.weight * distance)

    def _count(self, outcome: Outcome, teacher: Tensor) -> None:
        """Over all processes, so that all of them fall silent together."""
        labels, own = outcome.labels, outcome.logits.detach().argmax(1)
        mine = torch.stack([(own == labels).sum(), (teacher.argmax(1) == labels).sum(), labels.new_tensor(len(labels))])
        student, theirs, seen = self.setting.add_up(mine)
        self.counts.student += student
        self.counts.teacher += theirs
        self.counts.seen += seen

    def _kept(self, outcome: Outcome, teacher: Tensor) -> Tensor | None:
        """(N,) bool: the images on which the teacher is listened to. None: all."""
        labels = outcome.labels
        kept = None
        if self.options.only_correct:
            kept = teacher.argmax(1) == labels
        if self.options.only_better:
            mine, theirs = (F.cross_entropy(x.float(), labels, reduction="none") for x in (outcome.logits, teacher))
            better = (theirs < mine).detach()
            kept = better if kept is None else kept & better
        return kept


@register_regularizer
@dataclass(frozen=True)
class LogitDistillation(Regularizer):
    """L = loss + w(u) D(a, t), with the logits a of the network and t of a trained teacher that sees the same images.

    WLD-style, our reading: the abstract of arXiv:2102.03495 says that a trained network without the unit teaches the
    one with it, to speed its training up. Its loss, weight and schedule are not known. Here w falls from `strength` to
    0 at the part `end` of the training, and the teacher is not asked any more after that. Labels are never smoothed in
    D. Of mixed labels the heavier one counts.

    The teacher is not trained, not saved, and always in eval mode. It is named by `--teacher`, or handed to
    `fit(..., teacher=...)`.

    Args:
        distance: D: `"mse"` or `"kl"`, see `logit_distance`.
        strength: w at the beginning. Below 0: 0.1 for `"mse"`, 1 for `"kl"`.
        end: the part of the training after which the teacher is silent.
        schedule: how w falls: `"linear"`, `"cosine"` or `"constant"`.
        temperature: of `"kl"`.
        only_correct: leave out images that the teacher classifies wrongly.
        only_better: leave out images on which the network's cross entropy is already below the teacher's.
        stop_when_better: the teacher is silent for good after the first epoch in which the network's accuracy on the
            training images reached the teacher's.
    """

    name = "logit_distillation"
    family = "label"
    place = "step"
    paper = "WLD-style, our reading of the abstract of arXiv:2102.03495 (2021)"
    summary = "a trained teacher's logits as a second target, early in the training"
    cost = "until `end` a forward pass of the teacher; one in all where no image ever changes"
    separable = True

    distance: str = "mse"
    strength: float = -1.0
    end: float = 0.5
    schedule: str = "linear"
    temperature: float = 4.0
    only_correct: bool = False
    only_better: bool = False
    stop_when_better: bool = False

    def check(self) -> None:
        """Each option by itself."""
        check_choice("distance", self.distance, tuple(STRENGTHS))
        check_choice("schedule", self.schedule, tuple(_SCHEDULES))
        check_number("strength", self.strength, lambda v: v >= 0 or v == -1, "a number of at least 0")
        check_number("end", self.end, lambda v: 0 < v <= 1, "a part of the training above 0, at most 1")
        check_number("temperature", self.temperature, lambda v: v > 0, "a number above 0")

    def check_setting(self, setting: Setting) -> None:
        """There must be a teacher."""
        if setting.teacher is None:
            raise UsageError(f"regularizer {self.name!r} needs a teacher; name one with --teacher, or leave it out")

    def objective(self, inner: Objective, model: nn.Module, setting: Setting) -> Objective:
        """The loss with a teacher."""
        assert setting.teacher is not None
        return Distilled(inner, self, setting.teacher, setting)
