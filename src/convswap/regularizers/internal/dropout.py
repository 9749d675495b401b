"""Dropout, single values: y = x m / (1 - rate), m ~ Bernoulli(1 - rate) for each value (Srivastava et al., 2014)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from ..contract import Attachment, Regularizer, Setting
from ..registry import register_regularizer
from .attaching import Change, Hooked
from .checks import check_rate
from .places import Places
from .tape import Call


class Drop(Change):
    """Sets values to zero and scales the others up."""

    def __init__(self, owner: nn.Module, rate: float) -> None:
        super().__init__(owner)
        self.rate = rate

    def train(self, x: Tensor) -> Tensor:
        """x m / (1 - rate)."""
        return F.dropout(x, self.rate)


@register_regularizer
@dataclass(frozen=True)
class Dropout(Regularizer):
    """Dropout where wide residual networks have it (arXiv:1605.07146): between the convolutions of a residual branch.

    It changes what every convolution of a residual branch reads, but the branch's first. Convolutions of gates are left
    out. A network without such branches gets it before its last layer, the classifier. Evaluation is the identity.

    Attributes:
        rate: the probability to drop; 0.3 is that of wide residual networks on CIFAR.
        where: convolutions and units to drop before instead, as wildcards on their paths.
    """

    name, family, place = "dropout", "internal", "network"
    paper = "Srivastava et al., JMLR 2014; places of arXiv:1605.07146"
    summary = "single values of what the inner convolutions of residual branches read, or the classifier"

    rate: float = 0.3
    where: str = ""

    def check(self) -> None:
        """Refuse a rate outside 0 ... 1."""
        check_rate("rate", self.rate)

    def attach(self, model: nn.Module, setting: Setting) -> Attachment:
        """Hook the convolutions."""
        places, attached = Places(model, setting, self.name), Hooked()
        for call in drop_places(places, self.where) or [places.classifier]:
            attached.before(call.path, call.module, Drop(places.owner(call.path), self.rate))
        return attached


def drop_places(places: Places, where: str) -> list[Call]:
    """The convolutions and units before which dropout stands: those selected, or the inner ones of residual branches.

    Raises:
        UsageError: `where` names none of the network's convolutions.
    """
    if where:
        wanted = places.select(where)
        return [call for call in places.layers if call.path in wanted]
    branches = [branch for block in places.residuals for branch in block.branches]
    return [call for branch in branches for call in branch.layers[1:]]
