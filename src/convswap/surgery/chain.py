"""Packed binary convolutions that follow one another, joined so that only bits pass between them.

Two are joined where the exported graph proves that nothing but the second reads the first, through nothing but
`nn.ReLU` modules and operators without effect in evaluation, or `nn.Hardtanh` modules where the second takes the sign
as it is, which they do not change. What lies between (scale, bias, rectifier, the second's folded BatchNorm and sign)
then is one comparison of an integer per channel: `PackedBinaryChain`.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import Node

from ..ops.binary_conv import PackedBinaryChain, PackedBinaryConv2d
from .graph import IDENTITIES, Reader, calls_of
from .neighbours import RELUS
from .sites import all_paths, carry_hooks, replace

_DROPOUTS = (torch.ops.aten.dropout.default, torch.ops.aten.dropout_.default, torch.ops.aten.feature_dropout.default)
_CLIPS = (torch.ops.aten.hardtanh.default, torch.ops.aten.hardtanh_.default)
Link = tuple[str, list[str]]  # the next convolution, and the ReLU and Hardtanh modules on the way to it


def find_chains(model: nn.Module, example_input: Tensor) -> list[list[Any]]:
    """The steps `["chain", [paths of convolutions], [[paths of modules between two], ...]]` that can be done.

    Raises:
        FusionError: `torch.export` cannot read the model.
    """
    packed = [path for path, module in model.named_modules() if type(module) is PackedBinaryConv2d]
    if len(packed) < 2:
        return []
    reader = Reader(model, example_input)
    once = [path for path in packed if len(calls_of(reader, path)) == 1]
    owner = {node: path for path in once for node in _nodes_of(reader, path)}
    links = {path: link for path in once if (link := _link(reader, path, owner)) is not None}
    heads = [path for path in links if path not in {link[0] for link in links.values()}]
    steps = []
    for path in heads:
        paths, between = [path], []
        while paths[-1] in links:
            following, modules = links[paths[-1]]
            paths.append(following)
            between.append(modules)
        steps.append(["chain", paths, between])
    return steps


def _nodes_of(reader: Reader, path: str) -> list[Node]:
    def inside(node: Node) -> bool:
        stack = node.meta.get("nn_module_stack", {}).values()
        return node.op == "call_function" and any(where.split("@")[0] == path for where, _ in stack)

    return [node for node in reader.program.graph.nodes if inside(node)]


def _link(reader: Reader, path: str, owner: dict[Node, str]) -> Link | None:
    """The packed convolution that alone reads this one's output, if the two can be joined."""
    leaving = [n for n, p in owner.items() if p == path and any(owner.get(user) != path for user in reader.readers(n))]
    between: list[str] = []
    clipped = False
    if len(leaving) != 1:
        return None
    node = leaving[0]
    while True:
        following = [user for user in reader.readers(node) if owner.get(user) != path]
        targets = {owner.get(user) for user in following}
        if len(targets) == 1 and None not in targets:
            target = cast(str, targets.pop())
            first, second = (cast(PackedBinaryConv2d, reader.model.get_submodule(p)) for p in (path, target))
            if PackedBinaryChain.why_not(first, second) or (clipped and second.threshold is not None):
                return None
            return target, between
        if len(following) != 1:
            return None
        node = following[0]
        if node.target in RELUS or (node.target in _CLIPS and _keeps_signs(node)):
            clipped = clipped or node.target in _CLIPS
            module = _module_of(reader, node)
            if module is None:
                return None
            between.append(module)
        elif node.target not in (*IDENTITIES, *_DROPOUTS):
            return None


def _keeps_signs(node: Node) -> bool:
    """Does this clipping leave every sign as it is?"""
    low, high = [*cast(tuple[float, ...], node.args[1:]), *(-1.0, 1.0)[len(node.args) - 1 :]]
    return low < 0 <= high


def _module_of(reader: Reader, node: Node) -> str | None:
    """The path of the `nn.ReLU` or `nn.Hardtanh` that this operator is the one and only call of, or None."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = stack[-1][0].split("@")[0] if stack else ""
    known = bool(path) and type(reader.model.get_submodule(path)) in (nn.ReLU, nn.Hardtanh)
    return path if known and len(calls_of(reader, path)) == 1 else None


def join_chain(model: nn.Module, paths: list[str], between: list[list[str]]) -> nn.Module:
    """Put a `PackedBinaryChain` in the place of the first convolution; identities stand where the others were."""
    convs = [cast(PackedBinaryConv2d, model.get_submodule(path)) for path in paths]
    for conv, modules in zip(convs, between, strict=False):
        conv.relu = conv.relu or any(isinstance(model.get_submodule(path), nn.ReLU) for path in modules)
    chain = PackedBinaryChain.from_convs(convs)
    gone = [*paths, *(path for modules in between for path in modules)]
    places = {path: all_paths(model, model.get_submodule(path)) for path in gone}
    for path, everywhere in places.items():
        old = model.get_submodule(path)
        new: nn.Module = chain if path == paths[0] else nn.Identity().eval()
        carry_hooks(old, new)
        model = replace(model, everywhere, new)
    return model
