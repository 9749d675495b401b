"""Stochastic depth: whole residual branches are dropped (Huang et al., arXiv:1603.09382)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ...errors import check_choice
from ..contract import Attachment, Regularizer, Setting
from ..registry import register_regularizer
from .attaching import Change, Hooked, linear_rates
from .checks import check_rate
from .places import Places


class DropBranch(Change):
    """Drops a residual branch and scales it up where it stays."""

    def __init__(self, owner: nn.Module, rate: float, mode: str) -> None:
        super().__init__(owner)
        self.rate, self.mode = rate, mode

    def train(self, x: Tensor) -> Tensor:
        """torchvision's operator."""
        from torchvision.ops import stochastic_depth

        dropped: Tensor = stochastic_depth(x, self.rate, self.mode)
        return dropped


@register_regularizer
@dataclass(frozen=True)
class StochasticDepth(Regularizer):
    """y = shortcut + b F(x) / p_l with b ~ Bernoulli(p_l) and p_l = 1 - l/L (1 - p_L) in block l of L.

    Built on `torchvision.ops.stochastic_depth`. The paper scales F by p_l in evaluation and draws once for a batch.
    Here the scale is in the training, so evaluation is the identity, and each image draws by default.

    Attributes:
        survival: p_L, the probability that the last block's branch stays; 0.5 is the paper's.
        mode: `"row"` draws for each image, `"batch"` once for all, as the paper.
    """

    name, family, place = "stochastic_depth", "internal", "network"
    paper = "Huang et al., arXiv:1603.09382, 2016"
    summary = "whole residual branches, more often the deeper they are"

    survival: float = 0.5
    mode: str = "row"

    def check(self) -> None:
        """Refuse a probability outside 0 ... 1 and an unknown mode."""
        check_rate("survival", self.survival)
        check_choice("mode", self.mode, ("row", "batch"))

    def attach(self, model: nn.Module, setting: Setting) -> Attachment:
        """Hook the ends of the branches."""
        places, attached = Places(model, setting, self.name), Hooked()
        blocks = places.blocks
        for block, rate in zip(blocks, linear_rates(1 - self.survival, len(blocks)), strict=True):
            branch = block.branches[0]
            attached.after(branch.path, branch.module, DropBranch(block.module, rate, self.mode), first=True)
        return attached
