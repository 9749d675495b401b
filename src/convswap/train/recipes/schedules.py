"""The learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A rise over the first steps and a fall over the others, in a training of `total` steps.

    With T = `total`, R = round(`warmup` T), i = `initial` and f = `final`, the rate at step t is `peak` times

        t < R:           i + (1 - i) (t + 1) / R
        linear:          f + (1 - f) (1 - d)                      with d = (t - R) / (T - R)
        cosine:          f + (1 - f) (1 + cos(pi d)) / 2
        poly:            f + (1 - f) (1 - d)^power
        exponential:     f^d
        steps:           gamma^k, where k of the `milestones` m have t >= round(m T)

    `one_cycle` is that of `torch.optim.lr_scheduler.OneCycleLR` without its cycle of the momentum: both the rise, up to
    step `warmup` T - 1, and the fall, up to step T - 1, are halves of a cosine.

    Attributes:
        schedule: the name of the curve.
        peak: the highest rate.
        warmup: fraction of the steps in which the curve rises.
        initial: where the rise begins, as a fraction of the peak.
        final: where the fall ends, likewise.
        milestones: fractions of the training, for `steps`.
        gamma: the factor at each of them.
        power: the exponent of `poly`.
    """

    schedule: str
    peak: float = 1.0
    warmup: float = 0.0
    initial: float = 0.0
    final: float = 0.0
    milestones: Sequence[float] = ()
    gamma: float = 0.1
    power: float = 0.9

    def at(self, step: int, total: int) -> float:
        """The learning rate of a step, counted from 0."""
        if self.schedule == "one_cycle":
            return self.peak * self._one_cycle(step, total)
        rise = round(self.warmup * total)
        if step < rise:
            start = self.peak * self.initial
            return start + (self.peak - start) * (step + 1) / rise
        if self.schedule == "steps":
            return float(self.peak * self.gamma ** sum(step >= round(part * total) for part in self.milestones))
        done = (step - rise) / max(total - rise, 1)
        if self.schedule == "exponential":
            return float(self.peak * self.final**done)
        return self.peak * (self.final + (1 - self.final) * self._left(done))

    def _left(self, done: float) -> float:
        """What is left of the fall, from 1 to 0."""
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        return float(max(1 - done, 0.0) ** self.power) if self.schedule == "poly" else 1 - done

    def _one_cycle(self, step: int, total: int) -> float:
        top, end = self.warmup * total - 1, total - 1
        if step <= top and top > 0:
            start, stop, done = self.initial, 1.0, step / top
        else:
            top = max(top, 0.0)
            start, stop, done = 1.0, self.final, (step - top) / max(end - top, 1)
        return stop + (start - stop) * (1 + math.cos(math.pi * min(done, 1.0))) / 2
