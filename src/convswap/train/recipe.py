"""How to train: a frozen description with validated fields, and the functions that return good ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import UsageError, check_choice, check_known, check_number, check_whole

if TYPE_CHECKING:
    from ..data import Data

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
        if self.loss == "squared_hinge" and self.label_smoothing > 0:
            raise UsageError("loss='squared_hinge' has no label_smoothing; give label_smoothing=0.0")
        if self.schedule == "exponential" and self.final_learning_rate == 0:
            raise UsageError("schedule='exponential' never reaches 0; give a final_learning_rate above 0, e.g. 3e-4")
        self._check_steps()

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


def digits_recipe(epochs: int = 10) -> Recipe:
    """For 8 x 8 handwritten digits and other tiny images: seconds per training on a laptop's CPU."""
    return Recipe(epochs=epochs, batch_size=64, crop_padding=1, padding_mode="zeros", flip=False, precision="fp32")


def small_image_recipe(epochs: int = 30) -> Recipe:
    """For CIFAR-like images, from scratch: a screening run that ranks units, not a record."""
    return Recipe(epochs=epochs)


def folder_recipe(epochs: int = 60) -> Recipe:
    """For a folder of photographs, from scratch."""
    return Recipe(epochs=epochs, batch_size=64, learning_rate=0.05, weight_decay=1e-4, crop_padding=0)


def fine_tune_recipe(epochs: int = 5, *, batch_size: int = 64, crop_padding: int = 0) -> Recipe:
    """For a trained model: a tenth of the learning rate, so that the model keeps what it has learned."""
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=0.01,
        weight_decay=1e-4,
        schedule="cosine",
        crop_padding=crop_padding,
    )


def binary_recipe(epochs: int = 500, *, batch_size: int = 50, learning_rate: float = 1e-3) -> Recipe:
    """For networks with binary weights, from scratch: the recipe of BinaryNet (arXiv:1602.02830) on CIFAR-10.

    Adam from 1e-3 down to 3e-7 exponentially, squared hinge, no weight decay (clipping bounds the latent weights), no
    augmentation. BinaryNet's inputs were scaled to -1..1. Ours are normalised by mean and deviation by default.
    """
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        optimizer="adam",
        nesterov=False,
        loss="squared_hinge",
        label_smoothing=0.0,
        weight_decay=0.0,
        warmup=0.0,
        schedule="exponential",
        final_learning_rate=3e-4,
        crop_padding=0,
        flip=False,
    )


def all_cnn_recipe(
    epochs: int = 350, *, batch_size: int = 128, learning_rate: float = 0.05, augment: bool = False
) -> Recipe:
    """For networks without BatchNorm on CIFAR, from scratch: the recipe of the all-convolutional net (arXiv:1412.6806).

    SGD with momentum 0.9, the learning rate times 0.1 at epochs 200, 250 and 300 of 350 (at the same fractions of
    another number of epochs), weight decay 0.001. The dropout (20 % of the pixels, 50 % behind each pooling) belongs to
    the networks: `all_cnn_*` have it. The paper's images had contrast normalisation and ZCA whitening, which our data
    have not: they are normalised by mean and deviation. The paper does not say the batch size.

    Args:
        epochs: passes over the training images.
        batch_size: images per step.
        learning_rate: the paper chose the best of 0.25, 0.1, 0.05 and 0.01 for each network.
        augment: flips and shifts by up to 5 pixels, as for the paper's 7.25 %; its comparison of networks (Table 3) has
            none. What comes in at the border is not said; here it is black.
    """
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        nesterov=False,
        weight_decay=1e-3,
        label_smoothing=0.0,
        warmup=0.0,
        schedule="steps",
        milestones=(200 / 350, 250 / 350, 300 / 350),
        crop_padding=5 if augment else 0,
        padding_mode="zeros",
        flip=augment,
    )


def all_cnn_augmented_recipe(epochs: int = 350) -> Recipe:
    """`all_cnn_recipe` with flips and shifts."""
    return all_cnn_recipe(epochs, augment=True)


#: recipes that the command line knows by name
NAMED_RECIPES: dict[str, Callable[[], Recipe]] = {
    "binary": binary_recipe,
    "all_cnn": all_cnn_recipe,
    "all_cnn_augmented": all_cnn_augmented_recipe,
}


def default_recipe(data: Data, *, pretrained: bool = False, epochs: int | None = None) -> Recipe:
    """The recipe for a data set, chosen by image size and by whether the model starts from trained weights.

    Args:
        data: what will be trained on.
        pretrained: the model holds trained weights, so fine-tune gently.
        epochs: replaces the recipe's own number.
    """
    from ..data import FolderImages

    chosen = {} if epochs is None else {"epochs": epochs}
    folder = isinstance(data.train, FolderImages)
    if pretrained:
        return fine_tune_recipe(**chosen, batch_size=32 if folder else 128, crop_padding=0 if folder else 4)
    if folder:
        return folder_recipe(**chosen)
    if max(data.image_size) < 16:
        return digits_recipe(**chosen)
    return small_image_recipe(**chosen)
