"""The card of a saved model: what its images looked like, what its outputs mean, and where its weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import nn

from ..errors import UsageError, check_known, check_number, check_whole
from ..surgery.history import CARD

_TUPLES = ("mean", "std", "image_size", "class_names")


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What somebody needs to use a trained network rightly. Everything is optional: None says "not known".

    `save` writes the card into the file, and `load` puts it on the model as `model.convswap_card`. A copy, a swap and
    a fusion keep the card. The card describes the training that made the weights, and a swap is no training.

    Attributes:
        mean: mean of each channel that images are normalised with, of pixels in 0..1.
        std: standard deviation of each channel, of pixels in 0..1.
        image_size: height and width of the input, in pixels.
        resize: the shorter side, in pixels, that a test image is resized to (bilinear, antialiased) before the centre
            is cropped to `image_size`. None: images already have their size.
        channels: channels of the images.
        class_names: one name per output.
        data: name of the data set of the training.
        data_description: the data set in a sentence.
        unit: the unit that was trained, with its options and places.
        recipe: the training's `Recipe.as_dict()`.
        test_accuracy: after the training's last epoch, from 0 to 1.
        versions: packages of the training and their versions.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: tuple[int, int] | None = None
    resize: int | None = None
    channels: int | None = None
    class_names: tuple[str, ...] | None = None
    data: str | None = None
    data_description: str | None = None
    unit: str | None = None
    recipe: dict[str, Any] | None = None
    test_accuracy: float | None = None
    versions: dict[str, str] | None = None

    def __post_init__(self) -> None:
        for name in _TUPLES:
            value = getattr(self, name)
            if value is not None:
                if isinstance(value, str) or not isinstance(value, tuple | list):
                    raise UsageError(f"card {name}={value!r} is not allowed; give a sequence")
                object.__setattr__(self, name, tuple(value))
        if (self.mean is None) != (self.std is None):
            raise UsageError(f"card mean={self.mean!r}, std={self.std!r} is not allowed; give both or neither")
        for name in ("resize", "channels"):
            if getattr(self, name) is not None:
                check_whole(f"card {name}", getattr(self, name))
        self._check_constants()
        if self.image_size is not None:
            if len(self.image_size) != 2:
                raise UsageError(f"card image_size={self.image_size!r} is not allowed; give (height, width)")
            for side in self.image_size:
                check_whole("card image_size", side)
        for name in ("data", "data_description", "unit"):
            if not isinstance(getattr(self, name), str | None):
                raise UsageError(f"card {name}={getattr(self, name)!r} is not allowed; give a text")
        if self.test_accuracy is not None:
            check_number("card test_accuracy", self.test_accuracy, lambda v: 0 <= v <= 1, "a fraction from 0 to 1")

    def _check_constants(self) -> None:
        for mean in self.mean or ():
            check_number("card mean", mean, lambda v: True, "numbers")
        for std in self.std or ():
            check_number("card std", std, lambda v: v > 0, "numbers above 0")
        lengths = {len(values) for values in (self.mean, self.std) if values is not None}
        if len(lengths | ({self.channels} if self.channels is not None and lengths else set())) > 1:
            raise UsageError(
                f"card mean={self.mean!r}, std={self.std!r} is not allowed; give one number per channel"
                + (f" (channels={self.channels})" if self.channels is not None else "")
            )

    def as_dict(self) -> dict[str, Any]:
        """The known facts, for JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelCard:
        """The card of `as_dict()`, or of the facts that a user gives.

        Raises:
            UsageError: a fact is unknown, or its value is not allowed.
        """
        check_known("fact of a card", values, [field.name for field in fields(cls)])
        return cls(**values)


def card_of(model: nn.Module) -> ModelCard | None:
    """The card of a loaded model, or None."""
    card = model.__dict__.get(CARD)
    return card if isinstance(card, ModelCard) else None


def put_card(model: nn.Module, card: ModelCard | None) -> None:
    """Put a card on a model, and correct what the host itself declares of its input (`pretrained_cfg`, as in timm)."""
    model.__dict__[CARD] = card
    declared = model.__dict__.get("pretrained_cfg")
    if card is not None and isinstance(declared, dict):
        corrected = _corrected(declared, card, getattr(model, "num_classes", None))
        for name in ("pretrained_cfg", "default_cfg"):  # timm's old name for the same
            if name in model.__dict__:
                model.__dict__[name] = corrected


def _corrected(declared: dict[str, Any], card: ModelCard, num_classes: object) -> dict[str, Any]:
    """A timm configuration in which the facts of the card replace those of other weights."""
    config = {name: value for name, value in declared.items() if name not in ("test_input_size", "test_crop_pct")}
    if card.mean is not None and card.std is not None:
        config |= {"mean": card.mean, "std": card.std}
    if card.image_size is not None:
        channels = card.channels or len(card.mean or (0, 0, 0))
        config |= {"input_size": (channels, *card.image_size), "interpolation": "bilinear", "crop_mode": "center"}
        side = card.image_size[0]
        # timm resizes to floor(side / crop_pct). The half keeps the floor away from rounding.
        config["crop_pct"] = 1.0 if card.resize is None else side / (card.resize + 0.5)
    if card.class_names is not None:
        config |= {"num_classes": len(card.class_names), "label_names": card.class_names}
    elif isinstance(num_classes, int):
        config["num_classes"] = num_classes
    return config
