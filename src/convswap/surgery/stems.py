"""The stem of a model: its first convolution with the BatchNorm, ReLU and max-pool behind it, read off the graph."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from ..errors import FusionError, UsageError
from ..units.block import Place
from .blocks import BlockSite
from .graph import BATCH_NORM, Reader, module_of
from .neighbours import RELUS

_POOLS = (torch.ops.aten.max_pool2d.default,)


@dataclass(frozen=True)
class StemSite(BlockSite):
    """A stem: the unit stands at the convolution's path, the modules of `others` (last one first) go."""

    others: tuple[str, ...] = ()


def find_stem(model: nn.Module, example_input: Tensor) -> list[StemSite]:
    """The stem of a model, if it has one: convolution, perhaps BatchNorm, ReLU, max-pool, each read by the next alone.

    Raises:
        UsageError: the model cannot be exported, so that its order of operations is not known.
    """
    try:
        reader = Reader(copy.deepcopy(model).eval(), example_input)
    except FusionError as error:
        raise UsageError(f"the model's stem cannot be found: {error}") from error
    for node in reader.program.graph.nodes:
        path = reader.convolution(node)
        if path is not None:
            site = _stem(reader, model, node, path)
            return [] if site is None else [site]
    return []


def _stem(reader: Reader, model: nn.Module, conv: Node, path: str) -> StemSite | None:
    source: Any = conv.args[0]
    if not isinstance(source, Node) or source.op != "placeholder":
        return None
    chain, node = [], conv
    for targets in ((BATCH_NORM,), RELUS, _POOLS):
        readers = reader.readers(node)
        if len(readers) != 1:
            return None
        if readers[0].target in targets:
            node = readers[0]
            chain.append(_module_path(reader, node))
        elif targets != (BATCH_NORM,):
            return None
    module = model.get_submodule(path)
    pool = model.get_submodule(chain[-1] or "")
    if None in chain or not isinstance(module, nn.Conv2d) or not isinstance(pool, nn.MaxPool2d):
        return None
    strides = [_square(module.stride), _square(pool.stride)]
    if None in strides or not pool.stride:
        return None
    stride = (strides[0] or 1) * (strides[1] or 1)
    weight = module.weight
    place = Place(
        module.in_channels,
        module.out_channels,
        stride,
        kind="stem",
        device=weight.device,
        dtype=weight.dtype,
        training=module.training,
    )
    return StemSite((path,), module, place, tuple(p for p in reversed(chain) if p is not None))


def _module_path(reader: Reader, node: Node) -> str | None:
    """The path of the module without submodules that this operator is the one call of, or None."""
    path = module_of(reader, node)
    if path is None or node.target is BATCH_NORM:
        return path
    return None if any(True for _ in reader.model.get_submodule(path).children()) else path


def _square(value: Any) -> int | None:
    """A stride that is the same in both directions, or None."""
    rows, columns = (value, value) if isinstance(value, int) else value
    return rows if rows == columns else None
