"""ShakeDrop: residual branches are shaken or stay (Yamada et al., arXiv:1802.02375)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...errors import check_choice
from ..contract import Attachment, Regularizer, Setting
from ..registry import register_regularizer
from .attaching import Change, Lasting, linear_rates
from .checks import check_rate
from .ending_norm import norm_at_end, scale_norm
from .places import Places


def different_gradient(x: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """`forward * x`, exactly, whose gradient for x is `backward`: any device, and no autograd function of its own."""
    return (forward * x).detach() + backward * (x - x.detach())


class Shake(Change):
    """Multiplies a branch by a random factor, and its gradient by another one."""

    def __init__(self, owner: nn.Module, survival: float, gate: str) -> None:
        super().__init__(owner)
        self.survival, self.gate = survival, gate

    def train(self, x: Tensor) -> Tensor:
        """(b + a - b a) x, with the gradient (b + c - b c): both factors are 1 where b is."""
        each = (x.shape[0], *[1] * (x.dim() - 1))
        gates = each if self.gate == "image" else [1] * x.dim()
        stays = torch.empty(gates, device=x.device, dtype=x.dtype).bernoulli_(self.survival) > 0
        a = torch.empty(each, device=x.device, dtype=x.dtype).uniform_(-1, 1)
        c = torch.empty(each, device=x.device, dtype=x.dtype).uniform_(0, 1)
        one = torch.ones_like(a)
        return different_gradient(x, torch.where(stays, one, a), torch.where(stays, one, c))

    def evaluate(self, x: Tensor) -> Tensor:
        """E[b + a - b a] x = p_l x."""
        return x * self.survival


class Shaken(Lasting):
    """Leaves the expected factors in the batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.norms: list[tuple[nn.BatchNorm2d, float]] = []

    def settle(self) -> None:
        """Multiply what the batch norms return."""
        for norm, factor in self.norms:
            scale_norm(norm, factor)


@register_regularizer
@dataclass(frozen=True)
class ShakeDrop(Regularizer):
    """y = shortcut + (b + a - b a) F(x), with c in place of a in the gradient, in block l of L.

    b ~ Bernoulli(p_l), p_l = 1 - l/L (1 - p_L), a ~ U(-1, 1), c ~ U(0, 1), a and c for each image. Evaluation
    multiplies F by p_l. When the training ends, weight and bias of the BatchNorm at each branch's end take over this
    factor, so the network computes without the method what it computed with it. Branches without that BatchNorm are
    refused; the paper needs it too.

    Attributes:
        survival: p_L; 0.5 is the paper's.
        gate: `"batch"` draws b once for a batch, `"image"` for each image.
    """

    name, family, place = "shake_drop", "internal", "network"
    paper = "Yamada et al., arXiv:1802.02375, 2018"
    summary = "residual branches times random factors, others in the gradient"
    excludes: ClassVar = {"stochastic_depth": "both drop whole residual branches"}

    survival: float = 0.5
    gate: str = "batch"

    def check(self) -> None:
        """Refuse a probability outside 0 ... 1 and an unknown gate."""
        check_rate("survival", self.survival)
        check_choice("gate", self.gate, ("batch", "image"))

    def attach(self, model: nn.Module, setting: Setting) -> Attachment:
        """Hook the ends of the branches."""
        places, attached = Places(model, setting, self.name), Shaken()
        blocks = places.blocks
        for block, rate in zip(blocks, linear_rates(1 - self.survival, len(blocks)), strict=True):
            branch = block.branches[0]
            attached.norms.append((norm_at_end(places, block.path, branch), 1 - rate))
            attached.after(branch.path, branch.module, Shake(block.module, 1 - rate, self.gate), first=True)
        return attached
