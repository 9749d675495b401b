"""The neighbours of a convolution: the BatchNorm it feeds, the ReLU it reads, the ReLU that follows.

Some units bring their own normalisation or rectifier, and the host's would repeat it. The exported graph shows which
module that is. The definition order does not.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.fx import Node

from ..errors import FusionError
from ..units.contract.registry import spec_of
from .copying import copy_model
from .graph import BATCH_NORM, Reader, after_norm, module_of, source_of
from .inputs import Inputs
from .sites import replace, sites

RELUS = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)


@dataclass(frozen=True)
class Neighbours:
    """What the graph says about one convolution.

    Attributes:
        batch_norm: path of the BatchNorm that is the only reader of its output and reads nothing else.
        relu_follows: whether only a ReLU reads its (normalised) output.
        rectified: whether its input is the output of a ReLU.
        relu_module: path of the `nn.ReLU` whose output it reads, if that module is called once.
    """

    batch_norm: str | None = None
    relu_follows: bool = False
    rectified: bool = False
    relu_module: str | None = None


@dataclass(frozen=True)
class Neighbourhood:
    """The neighbours of a model's plain convolutions, by path, and the convolutions that read each ReLU module."""

    of: dict[str, Neighbours]
    relu_readers: dict[str, frozenset[str | None]]

    def removable_relus(self, convolutions: Collection[str]) -> list[str]:
        """The ReLU modules that feed these convolutions and nothing else."""
        return [path for path, readers in self.relu_readers.items() if readers and readers <= set(convolutions)]


def read_neighbourhood(model: nn.Module, inputs: Inputs) -> Neighbourhood:
    """Export a copy of the model in eval mode and find the neighbours of each of its convolutions.

    Raises:
        FusionError: `torch.export` cannot read the model.
    """
    reader = Reader(_with_plain_convolutions(model).eval(), inputs)
    nodes = [node for node in reader.program.graph.nodes if node.op == "call_function"]
    norms: dict[str, Node] = {}
    for node in nodes:
        if node.target is BATCH_NORM:
            source, _ = source_of(reader, node)
            if source is not None:
                norms[source] = node
    found: dict[str, Neighbours] = {}
    for node in nodes:
        path = reader.convolution(node)
        if path is not None:
            found[path] = _neighbours(reader, node, norms.get(path))
    readers = {
        relu: frozenset(reader.convolution(user) for user in reader.readers(node))
        for node in nodes
        if (relu := _relu_module(reader, node)) is not None
    }
    return Neighbourhood(found, readers)


def _with_plain_convolutions(model: nn.Module) -> nn.Module:
    """A copy with a convolution for each unit that equals one, so that the graph shows a convolution there."""
    copied = copy_model(model, FusionError)
    for site in sites(copied):
        spec = spec_of(site.module)
        if spec is not None and spec.fusion == "conv" and type(site.module) is not nn.Conv2d:
            copied = replace(copied, site.paths, cast(Any, site.module).fuse())
    return copied


def _neighbours(reader: Reader, conv: Node, norm: Node | None) -> Neighbours:
    batch_norm, follows = None, False
    if norm is not None:
        batch_norm = reader.owner(norm.args[3], "running_mean")
        rest = after_norm(reader.model.get_submodule(batch_norm or ""))
        follows = isinstance(rest, nn.ReLU)
    following = reader.readers(conv if norm is None else norm)
    follows = follows or (bool(following) and all(user.target in RELUS for user in following))
    source = conv.args[0]
    rectified = isinstance(source, Node) and source.op == "call_function" and source.target in RELUS
    relu = _relu_module(reader, source) if rectified and isinstance(source, Node) else None
    return Neighbours(batch_norm, follows, rectified, relu)


def _relu_module(reader: Reader, node: Node) -> str | None:
    """The path of the `nn.ReLU` whose only call is this operator, or None."""
    if node.target not in RELUS:
        return None
    path = module_of(reader, node)
    return path if path is not None and type(reader.model.get_submodule(path)) is nn.ReLU else None
