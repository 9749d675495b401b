"""Consecutive convolutions without anything between them, multiplied together: `W = W2 W1`, `b = b2 + W2 b1`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import cast

import torch
from torch import nn
from torch.fx import Node

from ...units.contract.geometry import Geometry, plain_conv
from ..algebra import kernel_then_pointwise
from ..graph import BATCH_NORM, Reader, source_of
from ..inputs import Inputs
from ..sites import all_paths, held_elsewhere, is_plain, replace, why_not_plain
from ..steps import apply_step
from .operators import alias_of

Merge = tuple[str, str, str | None]  # the first convolution, the second, and the batch norm between them


def find_merges(model: nn.Module, inputs: Inputs, doubling: Collection[str]) -> list[Merge]:
    """The pairs of which the second is 1x1, reads the first alone, and is its only reader.

    Both are 1x1, or the second is in `doubling`: a convolution that only doubles the map in front of a chain. A larger
    first kernel could make the product dear.

    Raises:
        FusionError: `torch.export` cannot read the model.
    """
    if not any(isinstance(module, nn.Conv2d) and _is_pointwise(module) for module in model.modules()):
        return []  # an export takes seconds
    reader = Reader(model, inputs)
    held = held_elsewhere(model)

    def usable(path: str, node: Node) -> bool:
        conv = cast(nn.Conv2d, model.get_submodule(path))
        alone = all(len(reader.readers(p)) == 1 for p in node.args[1:3] if isinstance(p, Node))
        hooked = any((conv._forward_hooks, conv._forward_pre_hooks))
        plain = is_plain(conv) and why_not_plain(conv) is None and conv.groups == 1 and id(conv) not in held
        return alone and plain and not hooked and len(all_paths(model, conv)) == 1

    found: list[Merge] = []
    merged: dict[str, str] = {}
    for node in reader.program.graph.nodes:
        second = reader.convolution(node)
        if second is None or not usable(second, node):
            continue
        conv = cast(nn.Conv2d, model.get_submodule(second))
        if not _is_pointwise(conv):
            continue
        before, norm = _before(reader, node)
        first = None if before is None else reader.convolution(before)
        if before is None or first is None or not usable(first, before):
            continue
        if second in doubling or cast(nn.Conv2d, model.get_submodule(first)).kernel_size == (1, 1):
            head = merged.get(first, first)
            found.append((head, second, norm))
            merged[second] = head
    return found


def _is_pointwise(conv: nn.Conv2d) -> bool:
    return (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)


def _before(reader: Reader, conv: Node) -> tuple[Node | None, str | None]:
    """The convolution of which this one is the only reader, and the batch norm between that can be folded into it."""
    norm = None
    for node in _sources(conv):
        if len(reader.readers(node)) != 1 or node.op != "call_function":
            return None, None
        if node.target is BATCH_NORM and norm is None:
            source, _ = source_of(reader, node)
            norm = reader.owner(node.args[3], "running_mean")
            if source is None or norm is None:
                return None, None
        elif alias_of(node) is None:
            return node, norm
    return None, None


def _sources(node: Node) -> Iterator[Node]:
    while isinstance(node.args[0], Node):
        node = node.args[0]
        yield node


def merge(model: nn.Module, pair: Merge | list[str | None]) -> nn.Module:
    """Multiply a pair together. The product stands at the first path, and an identity at the second."""
    first, second, norm = pair
    if norm is not None:
        model = apply_step(model, ["fold", first, norm])
    one, two = (cast(nn.Conv2d, model.get_submodule(str(path))) for path in (first, second))
    with torch.no_grad():
        weight, bias = kernel_then_pointwise((one.weight.double(), _bias(one)), (two.weight.double(), _bias(two)))
    geometry = Geometry(**{**Geometry.of(one).arguments(), "bias": True})
    product = plain_conv(geometry, weight, bias, like=one.weight, train=one.training)
    product.requires_grad_(one.weight.requires_grad or two.weight.requires_grad)
    model = replace(model, (str(first),), product)
    return replace(model, (str(second),), nn.Identity().train(two.training))


def _bias(conv: nn.Conv2d) -> torch.Tensor:
    return conv.weight.new_zeros(conv.out_channels).double() if conv.bias is None else conv.bias.double()
