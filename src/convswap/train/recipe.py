"""How to train: a frozen description with validated fields, and the functions that return good ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, cast

from ..errors import UsageError, check_choice, unknown_name

if TYPE_CHECKING:
    from ..data import Data

Precision = Literal["auto", "bf16", "fp32"]
Schedule = Literal["linear", "cosine"]
PaddingMode = Literal["reflect", "zeros"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """SGD with a one-cycle schedule: everything about a training but the model, the data and the seed.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step over all devices together. An incomplete last batch is dropped.
        learning_rate: the peak of the schedule.
        momentum: of SGD.
        nesterov: Nesterov's form of the momentum.
        weight_decay: not applied to norms, biases, other 1-d parameters, nor to what a unit or the model excludes.
        label_smoothing: of the training loss; the test loss has none.
        warmup: fraction of all steps in which the learning rate rises linearly from zero to its peak.
        schedule: how it falls after that, `"linear"` (a triangle) or `"cosine"`.
        final_learning_rate: what it falls to after the last step, as a fraction of the peak.
        crop_padding: random crops after padding by so many pixels; 0 for none. Image folders, whose files
            differ in size, are cropped as they are read and ignore this.
        padding_mode: what the padding holds, `"reflect"` or `"zeros"` (black).
        flip: random horizontal flips, where the data allow them (never on digits).
        precision: `"bf16"` (autocast), `"fp32"`, or `"auto"`: bf16 where the hardware computes in it.
        channels_last: memory format of model and images.
        compile: run the model through `torch.compile`.
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

    def __post_init__(self) -> None:
        _check_number("epochs", self.epochs, int, lambda v: v >= 1, "a whole number of at least 1")
        _check_number("batch_size", self.batch_size, int, lambda v: v >= 1, "a whole number of at least 1")
        _check_number("learning_rate", self.learning_rate, float, lambda v: v > 0, "a number above 0")
        _check_number("momentum", self.momentum, float, lambda v: 0 <= v < 1, "a number from 0 to below 1")
        _check_number("weight_decay", self.weight_decay, float, lambda v: v >= 0, "a number of at least 0")
        _check_number("label_smoothing", self.label_smoothing, float, lambda v: 0 <= v < 1, "from 0 to below 1")
        _check_number("warmup", self.warmup, float, lambda v: 0 <= v <= 1, "a fraction from 0 to 1")
        _check_number("final_learning_rate", self.final_learning_rate, float, lambda v: 0 <= v <= 1, "from 0 to 1")
        _check_number("crop_padding", self.crop_padding, int, lambda v: v >= 0, "a whole number of at least 0")
        check_choice("schedule", self.schedule, ("linear", "cosine"))
        check_choice("padding_mode", self.padding_mode, ("reflect", "zeros"))
        check_choice("precision", self.precision, ("auto", "bf16", "fp32"))
        for name in ("nesterov", "flip", "channels_last", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name}={getattr(self, name)!r} is not allowed; it must be True or False")
        if self.nesterov and self.momentum == 0:
            raise UsageError("nesterov=True needs a momentum above 0; give momentum=0.9 or nesterov=False")

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON and hashes."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe of `as_dict()`. Missing fields take their defaults; unknown ones are a `UsageError`."""
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise unknown_name("recipe field", name, known)
        return cls(**values)

    def learning_rate_at(self, step: int, total: int) -> float:
        """The learning rate of a step, counted from 0, in a training of `total` steps."""
        rise = round(self.warmup * total)
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        done = (step - rise) / max(total - rise, 1)
        left = 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * (self.final_learning_rate + (1 - self.final_learning_rate) * left)


def _check_number(name: str, value: object, kind: type, allowed: Callable[[Any], bool], wanted: str) -> None:
    types = (int,) if kind is int else (int, float)
    good = isinstance(value, types) and not isinstance(value, bool) and math.isfinite(cast(float, value))
    if not good or not allowed(value):
        raise UsageError(f"{name}={value!r} is not allowed; it must be {wanted}")


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
    """For a trained model: a tenth of the learning rate, so that what it knows is kept."""
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=0.01,
        weight_decay=1e-4,
        schedule="cosine",
        crop_padding=crop_padding,
    )


def default_recipe(data: Data, *, pretrained: bool = False, epochs: int | None = None) -> Recipe:
    """The recipe for a data set, chosen by image size and by whether the model starts from trained weights.

    Args:
        data: what will be trained on.
        pretrained: the model holds trained weights: fine-tune gently.
        epochs: instead of the recipe's own number.
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
