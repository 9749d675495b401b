"""SpatialDropout, whole channels: y = x m / (1 - rate), m ~ Bernoulli(1 - rate) per image and channel
(Tompson et al., arXiv:1411.4280).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from ..contract import Attachment, Regularizer, Setting
from ..registry import register_regularizer
from .attaching import Change, Hooked
from .checks import check_rate
from .dropout import drop_places
from .places import Places


class DropChannels(Change):
    """Sets channels to zero and scales the others up."""

    def __init__(self, owner: nn.Module, rate: float) -> None:
        super().__init__(owner)
        self.rate = rate

    def train(self, x: Tensor) -> Tensor:
        """x m / (1 - rate)."""
        return F.dropout2d(x, self.rate)


@register_regularizer
@dataclass(frozen=True)
class SpatialDropout(Regularizer):
    """Dropout of whole feature maps, at the places of `dropout`. Evaluation is the identity.

    A network without residual branches gets it before its last convolution that reads a map of more than one pixel.

    Attributes:
        rate: the probability to drop a channel.
        where: convolutions and units to drop before instead, as wildcards on their paths.
    """

    name, family, place = "spatial_dropout", "internal", "network"
    paper = "Tompson et al., arXiv:1411.4280, 2015"
    summary = "whole channels of what the inner convolutions of residual branches read"

    rate: float = 0.1
    where: str = ""

    def check(self) -> None:
        """Refuse a rate outside 0 ... 1."""
        check_rate("rate", self.rate)

    def attach(self, model: nn.Module, setting: Setting) -> Attachment:
        """Hook the convolutions."""
        places, attached = Places(model, setting, self.name), Hooked()
        for call in drop_places(places, self.where) or places.last_convolution:
            attached.before(call.path, call.module, DropChannels(places.owner(call.path), self.rate))
        return attached
