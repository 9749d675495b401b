"""`PackedBinaryChain`: a sequence of binary convolutions that hands on bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn

from ...errors import UsageError
from .module import PackedBinaryConv2d
from .operator import binary_conv2d_sign, binary_pack
from .packing import WORD
from .thresholds import dot_thresholds


class PackedBinaryChain(nn.Module):
    """The same function as `nn.Sequential(*convs)`; only the last convolution writes numbers.

    Between two convolutions, the scale, bias, rectifier, the next one's folded BatchNorm and its sign are one
    comparison of an integer with a threshold per channel. The thresholds are searched with the convolutions' own
    arithmetic, so every bit equals that of the sequence. They are searched again when the precision changes. (Under
    autocast the sequence would round between its convolutions; the chain has nothing to round.)

    Args:
        convs: at least one; outputs must fit the next inputs. They are the chain's modules. Their buffers are its state
            (`convs.0.weight_bits`, ...), beside `threshold_i` (int32) and `flip_i` (bool) between i and i + 1.

    Raises:
        ValueError: two neighbours cannot be joined. The message gives the reason, as `why_not` does without raising.
    """

    def __init__(self, convs: Sequence[PackedBinaryConv2d]) -> None:
        super().__init__()
        if not convs:
            raise UsageError("a chain needs at least one convolution")
        for first, second in pairwise(convs):
            if reason := self.why_not(first, second):
                raise UsageError(f"these convolutions cannot be joined: {reason}")
        self.convs = nn.ModuleList(convs)
        for index, (first, second) in enumerate(pairwise(convs)):
            threshold, flip = _thresholds_between(first, second)
            self.register_buffer(f"threshold_{index}", threshold)
            self.register_buffer(f"flip_{index}", flip)
        self.train(False)

    @staticmethod
    def why_not(first: PackedBinaryConv2d, second: PackedBinaryConv2d) -> str | None:
        """Why the first cannot hand bits to the second, or None."""
        if first.out_channels != second.in_channels:
            return f"{first.out_channels} output channels meet {second.in_channels} input channels"
        if "K" in (first.input_scale, second.input_scale):
            return "the map K needs the numbers, not their signs"
        if any(second.layer.border):
            return f"bits are not padded with padding_mode={second.layer.mode!r}"
        if second.groups > 1 and second.in_channels // second.groups % WORD:
            return (
                f"groups of {second.in_channels // second.groups} input channels begin within a word; "
                f"multiples of {WORD} do not"
            )
        return None

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        first, last = self.convs[0], self.convs[-1]
        assert isinstance(first, PackedBinaryConv2d)
        assert isinstance(last, PackedBinaryConv2d)
        if len(self.convs) == 1:
            return first(x)
        words = binary_pack(first.layer.pad(x), first.threshold, first.flip, first.groups)
        for index, conv in enumerate(self.convs[:-1]):
            assert isinstance(conv, PackedBinaryConv2d)
            threshold, flip = getattr(self, f"threshold_{index}"), getattr(self, f"flip_{index}")
            words = binary_conv2d_sign(
                words, conv.weight_bits, threshold, flip, conv.current_panels(), *conv.layer.call()
            )
        return last.convolve(words, like=x)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = self._precision()
        super()._apply(fn, recurse)
        if self._precision() != before:
            convs = [conv for conv in self.convs if isinstance(conv, PackedBinaryConv2d)]
            for index, (first, second) in enumerate(pairwise(convs)):
                if not first.scale.is_meta:
                    for name, found in zip(("threshold", "flip"), _thresholds_between(first, second), strict=True):
                        getattr(self, f"{name}_{index}").copy_(found)
        return self

    def _precision(self) -> set[torch.dtype]:
        return {parameter.dtype for parameter in self.parameters()}


def _thresholds_between(first: PackedBinaryConv2d, second: PackedBinaryConv2d) -> tuple[Tensor, Tensor]:
    terms = first.weight_bits.shape[2] * first.weight_bits.shape[3] * first.in_channels // first.groups
    return dot_thresholds(first.scale, first.bias, first.relu, second.threshold, second.flip, terms)
