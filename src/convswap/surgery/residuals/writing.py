"""Putting chains in the place of blocks: with their values, or as a record says, which `load` does."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..sites import all_paths, carry_hooks, replace
from .layers import build, describe
from .merging import merge
from .reading import Residual
from .widening import chain_of

Record = dict[str, Any]


def chain_at(model: nn.Module, path: str, residual: Residual) -> nn.Sequential:
    """The chain that equals the block at a path, in the precision and on the device of the model.

    Raises:
        UnreadableError: the block is outside of the conditions of exactness, with the reason.
    """
    block = model.get_submodule(path)
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    with torch.no_grad():
        layers = chain_of(residual, {name: tensor.detach() for name, tensor in tensors}, _like(block))
    return _prepared(layers, block)


def _like(block: nn.Module) -> Tensor:
    """A weight of a convolution, which tells precision, device and memory format."""
    held = [*block.parameters(), *block.buffers()]
    return next((tensor for tensor in held if tensor.dim() == 4), held[0])


def _prepared(layers: Iterable[tuple[str, nn.Module]], block: nn.Module) -> nn.Sequential:
    chain = nn.Sequential(OrderedDict(layers)).train(block.training)
    chain.requires_grad_(any(parameter.requires_grad for parameter in block.parameters()))
    carry_hooks(block, chain)
    return chain


def put_chains(model: nn.Module, blocks: Iterable[tuple[str, Residual]]) -> list[list[Any]]:
    """Exchange blocks for their chains, in place. Returns the chains as data: `[paths, [[name, layer], ...]]`."""
    record = []
    chains = [(path, chain_at(model, path, residual)) for path, residual in blocks]
    for path, chain in chains:
        paths = all_paths(model, model.get_submodule(path))
        replace(model, paths, chain)
        record.append([list(paths), [[name, describe(layer)] for name, layer in chain.named_children()]])
    return record


def repeat_removal(model: nn.Module, record: Record) -> nn.Module:
    """Repeat a recorded removal on a freshly built model. Only the structure matters: the values are loaded later.

    Raises:
        StoreError: the record names a layer that this version does not know.
    """
    for paths, layers in record["chains"]:
        block = model.get_submodule(paths[0])
        chain = _prepared([(name, build(layer, _like(block))) for name, layer in layers], block)
        model = replace(model, tuple(paths), chain)
    for pair in record["merges"]:
        model = merge(model, pair)
    return model
