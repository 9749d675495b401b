"""DropBlock: squares of each channel are dropped, more and more of them (Ghiasi et al., arXiv:1810.12890)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError, check_whole
from ..contract import Attachment, Regularizer, Setting
from ..registry import register_regularizer
from .attaching import Change, Hooked, MethodHook
from .checks import check_rate
from .places import Places, Residual, Stage
from .tape import Call


def drop_mask(x: Tensor, rate: Tensor | float, block_size: int) -> Tensor:
    """The factors of DropBlock, float32: 0 in the squares, and elsewhere the number of values over that of those kept.

    The rule is that of `torchvision.ops.drop_block2d`: corners are drawn for each image and channel where the whole
    square fits into the map, with the probability gamma = rate H W / (b^2 (H - b + 1) (W - b + 1)). On a smaller map
    the side b is the largest odd number that fits.
    """
    # Not the operator itself: its rate is a number, so a compiled network would be compiled anew at every step of a
    # rising rate. It also counts in the precision of the map, and in float16 a count over 65504 is infinite.
    height, width = x.shape[-2:]
    side = min(block_size, height, width)
    side = side - 1 + side % 2
    rows, columns = height - side + 1, width - side + 1
    gamma = rate * (height * width / (side**2 * rows * columns))
    corners = (torch.rand(*x.shape[:-2], rows, columns, device=x.device) < gamma).float()
    dropped = F.max_pool2d(F.pad(corners, [side - 1] * 4), side, 1)
    kept = 1 - dropped
    return kept * (kept.numel() / kept.sum().clamp(min=1))


class DropSquares(Change):
    """Drops squares.

    Attributes:
        rate: the final probability to drop a value.
        now: the present one, which `progress` sets. A tensor, which a compiled network reads anew at every step.
    """

    def __init__(self, owner: nn.Module, rate: float, block_size: int) -> None:
        super().__init__(owner)
        self.rate, self.block_size = rate, block_size
        place = next(owner.parameters(), torch.empty(0)).device
        self.now = torch.zeros((), device=place)

    def train(self, x: Tensor) -> Tensor:
        """x times `drop_mask`."""
        return x * drop_mask(x, self.now.to(x.device), self.block_size).to(x.dtype)


class Hold(MethodHook):
    """Keeps what a block reads until its branch ends.

    Attributes:
        owner: the block.
        entered: what it reads, None outside of training.
    """

    def __init__(self, owner: nn.Module) -> None:
        self.owner = owner
        self.entered: Tensor | None = None

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        """Keep the input."""
        self.entered = arguments[0] if self.owner.training else None


class DropShortcut(DropSquares):
    """Drops squares of a shortcut that is the block's input, which no module returns.

    The block's branch gets the difference, F + (m x - x), so that the block's sum is F + m x, up to rounding.
    """

    def __init__(self, owner: nn.Module, rate: float, block_size: int) -> None:
        super().__init__(owner, rate, block_size)
        self.hold = Hold(owner)

    def train(self, x: Tensor) -> Tensor:
        """F + (m x - x)."""
        entered, self.hold.entered = self.hold.entered, None
        if entered is None:
            return x
        return x + (drop_mask(entered, self.now.to(x.device), self.block_size) - 1).to(x.dtype) * entered


class _Dropping(Hooked):
    def __init__(self, *, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.changes: list[DropSquares] = []

    def progress(self, done: float) -> None:
        """Set the rates: they rise linearly from 0 to the end of the training."""
        for change in self.changes:
            change.now.fill_(change.rate * (done if self.linear else 1))


@register_regularizer
@dataclass(frozen=True)
class DropBlock(Regularizer):
    """y = x m numel(m) / sum(m): squares of `block_size` pixels are zero, drawn for each image and channel.

    As in the paper's ResNet-50, the method acts in the last two stages (`stages`): after every convolution with what
    normalises and rectifies it, and on the shortcuts of residual blocks. The rate rises linearly from 0 to `rate` over
    the training; a stage before the last has a quarter of the next stage's rate. Evaluation is the identity.

    Attributes:
        rate: the probability to drop a value in the last stage at the end of the training: 1 minus the paper's
            keep_prob of 0.9.
        block_size: side of the squares, odd. A smaller map gets the largest odd side that fits.
        stages: how many stages, counted from the last.
        linear: whether the rate rises, as in the paper, or is the same all the time.
        shortcut: whether shortcuts are dropped too, as in the paper.
    """

    name, family, place = "drop_block", "internal", "network"
    paper = "Ghiasi et al., arXiv:1810.12890, 2018"
    summary = "squares of each channel in the last two stages, more as the training goes on"
    cost = "a mask and two products for each map of the last two stages"

    rate: float = 0.1
    block_size: int = 7
    stages: int = 2
    linear: bool = True
    shortcut: bool = True

    def check(self) -> None:
        """Refuse a rate outside 0 ... 1, an even size and a number of stages below 1."""
        check_rate("rate", self.rate)
        check_whole("block_size", self.block_size, 3, odd=True)
        check_whole("stages", self.stages)
        for name in ("linear", "shortcut"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name}={getattr(self, name)!r} is not allowed; it must be True or False")

    def attach(self, model: nn.Module, setting: Setting) -> Attachment:
        """Hook the convolutions and the shortcuts."""
        places, attached = Places(model, setting, self.name), _Dropping(linear=self.linear)
        for depth, stage in enumerate(reversed(places.chosen_stages(""))):
            if depth < self.stages:
                self._attach_to(places, attached, stage, self.rate / 4**depth)
        if not attached.places:
            raise places.refuse("has no convolution in its last stages that a hook can reach", "try max_dropout")
        attached.progress(0.0)
        return attached

    def _attach_to(self, places: Places, attached: _Dropping, stage: Stage, rate: float) -> None:
        for call in _ends(places, stage):
            change = DropSquares(places.owner(call.path), rate, self.block_size)
            attached.changes.append(change)
            attached.after(call.path, call.module, change)
        for block in places.residuals if self.shortcut else []:
            if block.identity and _is_in(places, block, stage):
                skipped = DropShortcut(block.module, rate, self.block_size)
                attached.changes.append(skipped)
                attached.handles.append(block.module.register_forward_pre_hook(skipped.hold))
                branch = block.branches[0]
                attached.after(branch.path, branch.module, skipped)


def _is_in(places: Places, block: Residual, stage: Stage) -> bool:
    end = places.tape.calls_of(block.module)[0].returned
    return end is not None and stage.first <= end <= stage.last


def _ends(places: Places, stage: Stage) -> Iterator[Call]:
    """The calls after each convolution of a stage, once behind what only normalises and rectifies it."""
    nodes, seen = places.tape.nodes, set()
    for call in places.layers:
        if call is places.classifier or call.returned is None or not stage.first <= call.returned <= stage.last:
            continue
        if len(nodes[call.returned].shape) != 4 or nodes[call.returned].shape[2:] == (1, 1):
            continue
        owner, node = places.owner(call.path), nodes[call.returned]
        found = places.hookable(node, owner)
        while len(readers := places.tape.readers(node)) == 1:
            following = nodes[readers[0]]
            one = len(set(following.sources)) == 1 and following.shape == node.shape
            layer = any(key in places.sites for key in following.inside)  # the next convolution
            if not one or layer or id(owner) not in following.inside or following.index > stage.last:
                break
            node, found = following, places.hookable(following, owner) or found
        if found is not None and found.path not in seen:
            seen.add(found.path)
            yield found
