"""Finding the stem of a model in its graph: the first convolution(s), each with BatchNorm and ReLU, and a max-pool."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from ..errors import FusionError, UsageError
from ..units.contract.block import Place
from .blocks import BlockSite
from .copying import copy_model
from .graph import BATCH_NORM, Reader, calls_of, module_of
from .inputs import Inputs
from .neighbours import RELUS

_POOLS = (torch.ops.aten.max_pool2d.default,)


@dataclass(frozen=True)
class StemSite(BlockSite):
    """A stem. The unit takes the convolution's path, and the modules of `others` (last one first) are removed."""

    others: tuple[str, ...] = ()


def find_stem(model: nn.Module, inputs: Inputs) -> list[StemSite]:
    """The stem of a model, if any: convolution, perhaps BatchNorm, ReLU, max-pool, each read only by the next.

    A deep stem, in which the first three repeat and the first convolution is strided, counts as one stem.

    Raises:
        UsageError: the model cannot be exported, so that its order of operations is not known.
    """
    try:
        reader = Reader(copy_model(model, FusionError).eval(), inputs)
    except FusionError as error:
        raise UsageError(f"the model's stem cannot be found: {error}") from error
    for node in reader.program.graph.nodes:
        path = reader.convolution(node)
        if path is not None:
            site = _stem(reader, model, node, path)
            return [] if site is None else [site]
    return []


def _stem(reader: Reader, model: nn.Module, conv: Node, path: str) -> StemSite | None:
    """The chain from this convolution to a max-pool as one site, or None if the chain is not a stem."""
    if not isinstance(conv.args[0], Node) or conv.args[0].op != "placeholder":
        return None
    chain = _chain(reader, conv)
    modules = [None if found is None else model.get_submodule(found) for found in chain]
    first, pool = model.get_submodule(path), modules[-1] if modules else None
    convolutions = [module for module in (first, *modules) if isinstance(module, nn.Conv2d)]
    strides = [
        _square(module.stride) for module in (*convolutions, pool) if isinstance(module, nn.Conv2d | nn.MaxPool2d)
    ]
    if None in modules or None in strides or not isinstance(first, nn.Conv2d) or not isinstance(pool, nn.MaxPool2d):
        return None
    if len(convolutions) > 1 and strides[0] == 1:  # a VGG's first stage: two convolutions at full size
        return None
    place = Place(
        first.in_channels,
        convolutions[-1].out_channels,
        math.prod(stride for stride in strides if stride is not None),
        kind="stem",
        device=first.weight.device,
        dtype=first.weight.dtype,
        training=first.training,
    )
    return StemSite((path,), first, place, tuple(found for found in reversed(chain) if found is not None))


def _chain(reader: Reader, conv: Node) -> list[str | None]:
    """The modules behind a convolution up to a max-pool, each read only by the next. Empty if there is no such chain.

    A BatchNorm may follow each convolution, and a ReLU must. Deep stems have several convolutions. None stands for an
    operator that is not the only call of a module.
    """
    found: list[str | None] = []
    expected, node = "norm or relu", conv
    while len(following := reader.readers(node)) == 1:
        (node,) = following
        inner = reader.convolution(node)
        if expected == "norm or relu" and node.target is BATCH_NORM:
            expected = "relu"
        elif expected != "convolution or pool" and node.target in RELUS:
            expected = "convolution or pool"
        elif expected == "convolution or pool" and inner is not None and len(calls_of(reader, inner)) == 1:
            expected = "norm or relu"
        elif expected == "convolution or pool" and node.target in _POOLS:
            return [*found, _module_path(reader, node)]
        else:
            return []
        found.append(_module_path(reader, node) if inner is None else inner)
    return []


def _module_path(reader: Reader, node: Node) -> str | None:
    """The path of the module without submodules whose only call is this operator, or None."""
    path = module_of(reader, node)
    if path is None or node.target is BATCH_NORM:
        return path
    return None if any(True for _ in reader.model.get_submodule(path).children()) else path


def _square(value: Any) -> int | None:
    """A stride that is the same in both directions, or None."""
    rows, columns = (value, value) if isinstance(value, int) else value
    return rows if rows == columns else None
