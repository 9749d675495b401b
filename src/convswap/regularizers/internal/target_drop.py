"""TargetDrop: the squares around the maxima of the channels with most attention are dropped (arXiv:2010.10716)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import UsageError, check_whole
from ..contract import Attachment, Regularizer, Setting
from ..registry import register_regularizer
from .attaching import Change, Hooked
from .checks import check_rate
from .places import Places


class ChannelAttention(nn.Module):
    """M = sigmoid(W2 relu(W1 mean(x))), (N, C, H, W) -> (N, C). The inner width is C / reduction, at least 4."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        width = max(channels // reduction, 4)
        self.fc1 = nn.Linear(channels, width, bias=False)
        self.fc2 = nn.Linear(width, channels, bias=False)
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The attention of each channel."""
        attention_NC: Tensor = self.fc2(self.fc1(x_NCHW.mean((2, 3)).to(self.fc1.weight.dtype)).relu()).sigmoid()
        return attention_NC


def target_mask(x_NCHW: Tensor, attention_NC: Tensor, rate: float, block_size: int) -> Tensor:
    """The factors of TargetDrop, (N, C, H, W).

    In the int(C rate) channels with most attention: 0 in the square around the maximum, cut at the border, and
    HW / (pixels kept) elsewhere. 1 in the other channels.
    """
    count, channels, height, width = x_NCHW.shape
    chosen_NK = attention_NC.topk(int(channels * rate), dim=1).indices
    index = chosen_NK[:, :, None].expand(-1, -1, height * width)
    peak_NK = x_NCHW.flatten(2).gather(1, index).argmax(2)
    rows = torch.arange(height, device=x_NCHW.device)
    columns = torch.arange(width, device=x_NCHW.device)
    reach = block_size // 2
    far_row = (rows - (peak_NK // width)[..., None]).abs() > reach
    far_column = (columns - (peak_NK % width)[..., None]).abs() > reach
    kept = (far_row[..., :, None] | far_column[..., None, :]).flatten(2).float()
    scaled = kept * (height * width / kept.sum(2, keepdim=True).clamp(min=1))
    ones = torch.ones(count, channels, height * width, device=x_NCHW.device)
    return ones.scatter(1, index, scaled).view(x_NCHW.shape).to(x_NCHW.dtype)


class DropTargets(Change):
    """Drops the targets of one map."""

    def __init__(self, owner: nn.Module, attention: ChannelAttention, method: TargetDrop) -> None:
        super().__init__(owner)
        self.attention, self.reweight = attention, method.reweight
        self.rate, self.block_size = method.rate, method.block_size

    def train(self, x: Tensor) -> Tensor:
        """x times `target_mask`."""
        with torch.set_grad_enabled(self.reweight and torch.is_grad_enabled()):
            attention_NC = self.attention(x.detach())
        with torch.no_grad():
            side = min(self.block_size, *(size - 1 + size % 2 for size in x.shape[2:]))
            mask = target_mask(x, attention_NC, self.rate, side)
        dropped = x * mask
        if not self.reweight:
            return dropped
        factor_NC = 1 + (attention_NC - attention_NC.detach())  # exactly 1, with the gradient of a factor M
        return dropped * factor_NC[:, :, None, None].to(x.dtype)


class _Targeting(Hooked):
    def __init__(self) -> None:
        super().__init__()
        self.attentions = self.companion = nn.ModuleList()


def _processes() -> int:
    """The number of processes that train together."""
    known = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if known else 1


@register_regularizer
@dataclass(frozen=True)
class TargetDrop(Regularizer):
    """TargetDrop on the map of each stage. Evaluation is the identity.

    A squeeze-and-excitation of the map chooses channels, in which the square around the maximum is dropped. No public
    text or program that we could read trains this attention: the choice has no gradient, and the map is not multiplied
    by it. So by default it stays a fixed random projection. With `reweight` it is trained as if the map were multiplied
    by it: the factor is 1 in the output, and its gradient that of the attention. That option is ours, and so are the
    places: the paper's could not be confirmed.

    The attention is no part of the network: its parameters are in checkpoints, not in saved models.

    Attributes:
        rate: the share of channels that are targets.
        block_size: side of the squares, odd. A smaller map gets the largest odd side below its own.
        reduction: of the attention's inner width.
        reweight: train the attention.
    """

    name, family, place = "target_drop", "internal", "network"
    paper = "Zhu and Zhao, arXiv:2010.10716, 2020"
    summary = "squares around the maxima of the channels with most attention"
    cost = "a small attention and a sort of the channels after each stage"

    rate: float = 0.15
    block_size: int = 5
    reduction: int = 16
    reweight: bool = False

    def check(self) -> None:
        """Refuse a rate outside 0 ... 1, an even size, a reduction below 1."""
        check_rate("rate", self.rate)
        check_whole("block_size", self.block_size, 1, odd=True)
        check_whole("reduction", self.reduction)
        if not isinstance(self.reweight, bool):
            raise UsageError(f"reweight={self.reweight!r} is not allowed; it must be True or False")

    def attach(self, model: nn.Module, setting: Setting) -> Attachment:
        """Hook the stages."""
        places, attached = Places(model, setting, self.name), _Targeting()
        if self.reweight and _processes() > 1:
            raise UsageError(
                "regularizer 'target_drop': reweight=True is not allowed with several processes, which would train "
                "attentions of their own; give reweight=False or devices=1"
            )
        place = next(model.parameters())
        for stage in places.chosen_stages(""):
            channels = places.tape.nodes[stage.last].shape[1]
            if int(channels * self.rate) == 0:
                continue
            attention = ChannelAttention(channels, self.reduction).to(place.device)
            attention.requires_grad_(self.reweight)
            attached.attentions.append(attention)
            attached.after(stage.path, stage.module, DropTargets(places.owner(stage.path), attention, self))
        if not attached.places:
            raise places.refuse(f"has no stage of {int(1 / self.rate) + 1} channels or more", "give a larger rate")
        return attached
