"""How to train: a frozen description with validated fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from ...errors import UsageError, check_choice, check_known, check_number, check_whole
from ...regularizers import parse_regularizers, settle, text_of

Precision = Literal["auto", "bf16", "fp32"]
Schedule = Literal["linear", "cosine", "exponential", "steps"]
PaddingMode = Literal["reflect", "zeros"]
OptimizerName = Literal["sgd", "adam", "adamw", "shift_adamax"]
Loss = Literal["cross_entropy", "squared_hinge"]
_LATER: Any = {"left out of as_dict() at its default": True}  # so older descriptions and trial ids stay valid


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything about a training except model, data and seed: optimizer, schedule, augmentation, precision, ...

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step over all devices together. An incomplete last batch is dropped.
        learning_rate: the peak of the schedule.
        momentum: the momentum of SGD. For the other optimizers, the first beta (the second is 0.999).
        nesterov: Nesterov's form of the momentum, for SGD only.
        weight_decay: not applied to norms, biases, other 1-d parameters, or those that a unit or the model excludes.
        label_smoothing: of the training loss. The test loss has none, and neither has the squared hinge.
        warmup: fraction of all steps in which the learning rate rises linearly from zero to its peak.
        schedule: how the learning rate falls after that: `"linear"` (a triangle), `"cosine"`, `"exponential"`, or
            `"steps"`: times `gamma` at each of the `milestones`.
        final_learning_rate: the learning rate after the last step, as a fraction of the peak. It must be above 0 for
            `"exponential"`, and 0 for `"steps"`, where `gamma` and `milestones` decide.
        crop_padding: random crops after padding by this many pixels, 0 for none. Image folders, whose files differ in
            size, are cropped as they are read and ignore this.
        padding_mode: content of the padding, `"reflect"` or `"zeros"` (black).
        flip: random horizontal flips, where the data allow them (never on digits).
        precision: `"bf16"` (autocast), `"fp32"`, or `"auto"`: bf16 where the hardware computes in it.
        channels_last: memory format of model and images.
        compile: run the model through `torch.compile`.
        optimizer: `"sgd"`, `"adam"`, `"adamw"` or `"shift_adamax"` (steps by powers of two, see `ShiftAdaMax`).
        loss: of the training, `"cross_entropy"` or `"squared_hinge"` (see `squared_hinge`). The test loss is always
            the cross entropy.
        milestones: rising fractions of the training, from 0 to 1, for `schedule="steps"` only.
        gamma: the factor of the learning rate at each milestone.
        regularize: regularisers as text, such as `("cutout", "mixup:alpha=0.2")`, see `convswap.regularizers`. They
            are kept in the order in which they act. `"label_smoothing:E"` sets the field `label_smoothing`.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 0.2
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    warmup: float = 0.2
    schedule: Schedule = "linear"
    final_learning_rate: float = 0.0
    crop_padding: int = 4
    padding_mode: PaddingMode = "reflect"
    flip: bool = True
    precision: Precision = "auto"
    channels_last: bool = True
    compile: bool = False
    optimizer: OptimizerName = field(default="sgd", metadata=_LATER)
    loss: Loss = field(default="cross_entropy", metadata=_LATER)
    milestones: tuple[float, ...] = field(default=(), metadata=_LATER)
    gamma: float = field(default=0.1, metadata=_LATER)
    regularize: tuple[str, ...] = field(default=(), metadata=_LATER)

    def __post_init__(self) -> None:
        check_whole("epochs", self.epochs)
        check_whole("batch_size", self.batch_size)
        check_number("learning_rate", self.learning_rate, lambda v: v > 0, "a number above 0")
        check_number("momentum", self.momentum, lambda v: 0 <= v < 1, "a number from 0 to below 1")
        check_number("weight_decay", self.weight_decay, lambda v: v >= 0, "a number of at least 0")
        check_number("label_smoothing", self.label_smoothing, lambda v: 0 <= v < 1, "a number from 0 to below 1")
        check_number("warmup", self.warmup, lambda v: 0 <= v <= 1, "a fraction from 0 to 1")
        check_number("final_learning_rate", self.final_learning_rate, lambda v: 0 <= v <= 1, "a number from 0 to 1")
        check_whole("crop_padding", self.crop_padding, 0)
        check_choice("schedule", self.schedule, get_args(Schedule))
        check_choice("padding_mode", self.padding_mode, ("reflect", "zeros"))
        check_choice("precision", self.precision, ("auto", "bf16", "fp32"))
        check_choice("optimizer", self.optimizer, ("sgd", "adam", "adamw", "shift_adamax"))
        check_choice("loss", self.loss, ("cross_entropy", "squared_hinge"))
        for name in ("nesterov", "flip", "channels_last", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name}={getattr(self, name)!r} is not allowed; it must be True or False")
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            raise UsageError("nesterov=True needs a momentum above 0; give momentum=0.9 or nesterov=False")
        self._check_regularizers()
        if self.loss == "squared_hinge" and self.label_smoothing > 0:
            raise UsageError("loss='squared_hinge' has no label_smoothing; give label_smoothing=0.0")
        if self.schedule == "exponential" and self.final_learning_rate == 0:
            raise UsageError("schedule='exponential' never reaches 0; give a final_learning_rate above 0, e.g. 3e-4")
        self._check_steps()

    def _check_regularizers(self) -> None:
        methods, smoothing = settle(
            parse_regularizers(self.regularize), loss=self.loss, label_smoothing=self.label_smoothing
        )
        object.__setattr__(self, "label_smoothing", smoothing)
        object.__setattr__(self, "regularize", tuple(map(text_of, methods)))

    def _check_steps(self) -> None:
        check_number("gamma", self.gamma, lambda v: 0 < v < 1, "a number above 0 and below 1")
        if not isinstance(self.milestones, list | tuple):
            raise UsageError(f"milestones={self.milestones!r} is not allowed; give fractions such as (0.5, 0.75)")
        for fraction in self.milestones:
            check_number("milestones", fraction, lambda v: 0 < v < 1, "fractions above 0 and below 1")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise UsageError(f"milestones={self.milestones!r} is not allowed; each must be above the one before")
        object.__setattr__(self, "milestones", tuple(self.milestones))  # JSON has lists only
        if (self.schedule == "steps") != bool(self.milestones):
            raise UsageError(
                f"schedule={self.schedule!r} with milestones={self.milestones!r} is not allowed; schedule='steps' "
                "needs milestones, e.g. (0.5, 0.75), and the other schedules have none"
            )
        if self.schedule == "steps" and self.final_learning_rate > 0:
            raise UsageError("schedule='steps' has no final_learning_rate; give gamma and milestones instead")

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON and hashes, newer ones (`optimizer`, ...) only off their default."""
        defaults = {f.name: f.default for f in fields(self) if f.metadata == _LATER}
        values = {name: value for name, value in asdict(self).items() if value != defaults.get(name, ...)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe of `as_dict()`. Missing fields take their defaults. An unknown field raises a `UsageError`."""
        check_known("recipe field", values, [field.name for field in fields(cls)])
        return cls(**values)

    def learning_rate_at(self, step: int, total: int) -> float:
        """The learning rate of a step, counted from 0, in a training of `total` steps."""
        rise = round(self.warmup * total)
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        if self.schedule == "steps":
            return self.learning_rate * self.gamma ** sum(step >= round(part * total) for part in self.milestones)
        done = (step - rise) / max(total - rise, 1)
        if self.schedule == "exponential":
            return self.learning_rate * self.final_learning_rate**done
        left = 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * (self.final_learning_rate + (1 - self.final_learning_rate) * left)
