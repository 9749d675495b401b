"""A trained network that teaches another one: it sees the same images, and answers in the order of the same classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data import Data
from ..errors import UsageError
from ..models.card import card_of
from .evaluation import check_logits
from .recipes import Recipe


class Teacher:
    """Logits of a network for images that were normalised for another one.

    The network's card (`convswap.models.ModelCard`) says what it was trained with: constants of the normalisation,
    which are converted, and class names, whose order is converted. A network without a card, such as timm's, may
    declare constants in `pretrained_cfg`. What is not known is taken to be as in the data.

    Args:
        network: in eval mode, on the device of the images.
        scale: per channel, or None.
        shift: per channel, or None.
        order: the network's output of each class, or None.
    """

    def __init__(self, network: nn.Module, scale: Tensor | None, shift: Tensor | None, order: Tensor | None) -> None:
        self.network, self.scale, self.shift, self.order = network, scale, shift, order

    @classmethod
    def of(cls, network: nn.Module, data: Data, recipe: Recipe, device: torch.device) -> Teacher:
        """A network as teacher on these data. It is moved, and put in eval mode.

        Raises:
            UsageError: its classes or channels are others, or it cannot answer images of this size.
        """
        network.to(device).eval()
        if recipe.channels_last:
            network.to(memory_format=torch.channels_last)
        scale, shift = _conversion(network, data)
        teacher = cls(network, scale, shift, _order(network, data))
        teacher.to(device)
        teacher._check(data, device)
        return teacher

    def to(self, device: torch.device) -> None:
        """Move the conversions."""
        for name in ("scale", "shift", "order"):
            value = getattr(self, name)
            setattr(self, name, None if value is None else value.to(device))

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), normalised for the network that is taught, to logits (N, classes)."""
        if self.network.training:
            raise UsageError("the teacher is in training mode; something in the model put it there")
        if self.scale is not None and self.shift is not None:
            images = (images * self.scale + self.shift).to(images.dtype)
        logits = check_logits(self.network(images))
        return logits if self.order is None else logits[:, self.order]

    def _check(self, data: Data, device: torch.device) -> None:
        """Two images, before the training starts."""
        height, width = data.image_size
        kind = next((p.dtype for p in self.network.parameters() if p.is_floating_point()), torch.float32)
        try:
            with torch.no_grad():
                logits = self(torch.zeros(2, data.channels, height, width, device=device, dtype=kind))
        except (RuntimeError, ValueError, IndexError) as error:
            raise UsageError(
                f"the teacher cannot answer images of {height}x{width} with {data.channels} channels: "
                f"{str(error).splitlines()[0]}"
            ) from error
        if logits.shape[1] != data.num_classes:
            raise UsageError(
                f"the teacher has {logits.shape[1]} outputs, but {data.name!r} has {data.num_classes} classes; name a "
                "teacher that was trained on them"
            )


def _conversion(network: nn.Module, data: Data) -> tuple[Tensor | None, Tensor | None]:
    """From ((x - m) / s) to ((x - m') / s'): scale s / s', shift (m - m') / s', per channel."""
    card = card_of(network)
    if card is not None and card.channels not in (None, data.channels):
        raise UsageError(f"the teacher takes images of {card.channels} channels, but {data.name!r} has {data.channels}")
    mean, std = (card.mean, card.std) if card is not None else declared_constants(network)
    if mean is None or std is None or (tuple(mean) == data.mean and tuple(std) == data.std):
        return None, None
    if not len(mean) == len(std) == data.channels:  # declared for the colours of other images
        return None, None
    own_mean, own_std, mine, deviation = (
        torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (mean, std, data.mean, data.std)
    )
    return (deviation / own_std).float(), ((mine - own_mean) / own_std).float()


def declared_constants(network: nn.Module) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and standard deviation that a network without a card declares, as timm's do, or None twice."""
    declared = getattr(network, "pretrained_cfg", None)
    if not isinstance(declared, dict) or declared.get("mean") is None or declared.get("std") is None:
        return None, None
    return tuple(declared["mean"]), tuple(declared["std"])


def _order(network: nn.Module, data: Data) -> Tensor | None:
    card = card_of(network)
    if card is None or card.class_names is None or card.class_names == data.class_names:
        return None
    if sorted(card.class_names) != sorted(data.class_names):
        raise UsageError(
            f"the teacher knows the classes {', '.join(card.class_names[:6])}, but {data.name!r} has "
            f"{', '.join(data.class_names[:6])}; name a teacher that was trained on them"
        )
    return torch.tensor([card.class_names.index(name) for name in data.class_names])
