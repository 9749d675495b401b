"""MaxDropout: the largest values are dropped (Santos et al., arXiv:2007.13723)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import check_choice
from ..contract import Attachment, Regularizer, Setting
from ..registry import register_regularizer
from .attaching import Change, Hooked
from .checks import check_rate
from .dropout import drop_places
from .places import Places


def max_dropout(x: Tensor, rate: float) -> Tensor:
    """Zero where (x - min) / (max - min) > 1 - rate, with minimum and maximum over the whole tensor. No rescaling.

    The share of values that this drops depends on their number and distribution. It is not `rate`.
    """
    low, high = x.detach().float().aminmax()
    threshold = low + (1 - rate) * (high - low)
    # torch.where keeps the memory format, masked_fill does not
    return torch.where(x.detach().float() > threshold, torch.zeros_like(x), x)


class DropLargest(Change):
    """Drops the largest values."""

    def __init__(self, owner: nn.Module, rate: float) -> None:
        super().__init__(owner)
        self.rate = rate

    def train(self, x: Tensor) -> Tensor:
        """`max_dropout`."""
        return max_dropout(x, self.rate)


@register_regularizer
@dataclass(frozen=True)
class MaxDropout(Regularizer):
    """MaxDropout after each stage, as in the paper's ResNet-18, or in the place of dropout, as in its WRN.

    The authors' program builds the layer anew in every forward pass, and a new layer is in training mode, so it also
    drops while evaluating. Ours does not: evaluation is the identity. The published numbers come from that program.
    Minimum and maximum are those of one process's part of the batch.

    Attributes:
        rate: values above this part of the range, counted from the top, are dropped.
        inside: `"stages"` or `"branches"` (as `dropout`).
        where: the stages' or convolutions' paths to choose, as wildcards; by default all.
    """

    name, family, place = "max_dropout", "internal", "network"
    paper = "Santos et al., arXiv:2007.13723, 2020"
    summary = "the largest values after each stage"
    cost = "a pass over the map of each stage"

    rate: float = 0.3
    inside: str = "stages"
    where: str = ""

    def check(self) -> None:
        """Refuse a rate outside 0 ... 1 and an unknown place."""
        check_rate("rate", self.rate)
        check_choice("inside", self.inside, ("stages", "branches"))

    def attach(self, model: nn.Module, setting: Setting) -> Attachment:
        """Hook the stages or the convolutions."""
        places, attached = Places(model, setting, self.name), Hooked()
        if self.inside == "stages":
            for stage in places.chosen_stages(self.where):
                attached.after(stage.path, stage.module, DropLargest(places.owner(stage.path), self.rate))
            return attached
        found = drop_places(places, self.where)
        if not found:
            raise places.refuse("has no residual branch of two convolutions", "inside=stages needs none")
        for call in found:
            attached.before(call.path, call.module, DropLargest(places.owner(call.path), self.rate))
        return attached
