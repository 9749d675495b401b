"""Shake-Shake: two residual branches are mixed at random (Gastaldi, arXiv:1705.07485)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import check_choice
from ..contract import Attachment, Regularizer, Setting
from ..registry import register_regularizer
from .attaching import Change
from .ending_norm import norm_at_end
from .places import Places
from .shake_drop import Shaken, different_gradient


class Draw:
    """The factors of one block in one pass: the branch that is computed first draws, the other takes the rest.

    Attributes:
        per: `"image"` or `"batch"`.
        forward: of the first branch, in the output.
        backward: of the first branch, in the gradient.
    """

    def __init__(self, per: str) -> None:
        self.per = per
        self.forward: Tensor | None = None
        self.backward: Tensor | None = None

    def draw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """New factors."""
        shape = [x.shape[0] if self.per == "image" else 1, *[1] * (x.dim() - 1)]
        self.forward = torch.rand(shape, device=x.device, dtype=x.dtype)
        self.backward = torch.rand(shape, device=x.device, dtype=x.dtype)
        return self.forward, self.backward

    def rest(self) -> tuple[Tensor, Tensor]:
        """One minus the factors drawn, which are then forgotten."""
        if self.forward is None or self.backward is None:
            raise RuntimeError("the second branch of a Shake-Shake block ran before the first")
        forward, backward = 1 - self.forward, 1 - self.backward
        self.forward = self.backward = None
        return forward, backward


class ShakeBranch(Change):
    """Multiplies one of the two branches."""

    def __init__(self, owner: nn.Module, draw: Draw, *, first: bool) -> None:
        super().__init__(owner)
        self.draw, self.first = draw, first

    def train(self, x: Tensor) -> Tensor:
        """a x with the gradient b, or (1 - a) x with the gradient 1 - b."""
        forward, backward = self.draw.draw(x) if self.first else self.draw.rest()
        return different_gradient(x, forward, backward)

    def evaluate(self, x: Tensor) -> Tensor:
        """Half of it."""
        return x * 0.5


@register_regularizer
@dataclass(frozen=True)
class ShakeShake(Regularizer):
    """y = shortcut + a F1(x) + (1 - a) F2(x), with b in place of a in the gradient; a, b ~ U(0, 1).

    Evaluation takes a = 1/2. When the training ends, weight and bias of the BatchNorm at each branch's end take over
    this half, so the network computes without the method what it computed with it. The method is for blocks that add
    two branches to a shortcut, each ending in a BatchNorm. Other networks are refused.

    Attributes:
        per: `"image"` draws for each image, the paper's best, `"batch"` once for all.
    """

    name, family, place = "shake_shake", "internal", "network"
    paper = "Gastaldi, arXiv:1705.07485, 2017"
    summary = "the two branches of a residual block in random proportions, others in the gradient"

    per: str = "image"

    def check(self) -> None:
        """Refuse an unknown way to draw."""
        check_choice("per", self.per, ("image", "batch"))

    def attach(self, model: nn.Module, setting: Setting) -> Attachment:
        """Hook the ends of both branches."""
        places, attached = Places(model, setting, self.name), Shaken()
        blocks = [block for block in places.residuals if len(block.branches) == 2]
        if not blocks:
            raise places.refuse("has no residual block of two branches beside the shortcut", "shake_drop takes one")
        order = {call.path: index for index, call in enumerate(places.tape.calls)}
        for block in blocks:
            draw = Draw(self.per)
            for position, branch in enumerate(sorted(block.branches, key=lambda each: order[each.path])):
                attached.norms.append((norm_at_end(places, block.path, branch), 0.5))
                change = ShakeBranch(block.module, draw, first=position == 0)
                attached.after(branch.path, branch.module, change, first=True)
        return attached
