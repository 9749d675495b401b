"""What surrounds packed binary convolutions: a BatchNorm in front becomes thresholds, neighbours become chains.

A BatchNorm is one comparison per channel if its only consumer is a packed convolution that takes signs as they are.

Between two consecutive packed convolutions only bits need to pass. They are joined where the exported graph proves two
things. The second is the only consumer of the first. Nothing lies between them but `nn.ReLU` modules, operators without
effect in evaluation, and, where the second takes the sign as it is, `nn.Hardtanh` modules, which do not change a sign.
Everything between the two (scale, bias, rectifier, the second's folded BatchNorm and sign) is then one comparison of
an integer per channel: `PackedBinaryChain`.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.fx import Node

from ..ops.binary_conv import PackedBinaryChain, PackedBinaryConv2d, batch_norm_threshold
from .graph import BATCH_NORM, Reader, calls_of, does_nothing, module_of, modules_around
from .inputs import Inputs
from .neighbours import RELUS
from .sites import all_paths, carry_hooks, replace

_CLIPS = (torch.ops.aten.hardtanh.default, torch.ops.aten.hardtanh_.default)
Link = tuple[str, list[str]]  # the next convolution, and the ReLU and Hardtanh modules on the way to it


def find_chains(model: nn.Module, inputs: Inputs) -> list[list[Any]]:
    """The steps `["chain", [paths of convolutions], [[paths of modules between two], ...]]` that can be done.

    Raises:
        FusionError: `torch.export` cannot read the model.
    """
    packed = [path for path, module in model.named_modules() if type(module) is PackedBinaryConv2d]
    if len(packed) < 2:
        return []
    reader = Reader(model, inputs)
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


def find_thresholds(model: nn.Module, inputs: Inputs) -> list[list[Any]]:
    """The steps `["threshold", BatchNorm, convolution, [paths of nn.Hardtanh modules between]]` that can be done.

    Raises:
        FusionError: `torch.export` cannot read the model.
    """
    bare = [path for path, m in model.named_modules() if type(m) is PackedBinaryConv2d and takes_bare_signs(m)]
    if not bare:
        return []
    reader = Reader(model, inputs)
    owner = {n: path for path in bare if len(calls_of(reader, path)) == 1 for n in _nodes_of(reader, path)}
    steps = []
    for node in reader.program.graph.nodes:
        if node.op != "call_function" or node.target is not BATCH_NORM or node.args[5]:
            continue
        norm = reader.owner(node.args[3], "running_mean")
        if norm is None or type(reader.model.get_submodule(norm)) is not nn.BatchNorm2d:
            continue
        target, between = _only_reader(reader, node, owner, _CLIPS)
        if target is not None and len(calls_of(reader, norm)) == 1:
            steps.append(["threshold", norm, target, between])
    return steps


def takes_bare_signs(conv: PackedBinaryConv2d) -> bool:
    """Does the convolution compare its input with 0, and need nothing else from the input?"""
    return conv.threshold is None and conv.input_scale == "none"


def fold_threshold(model: nn.Module, norm: str, conv: str, between: list[str]) -> nn.Module:
    """Fold a BatchNorm into the comparison of the packed convolution that reads it; identities take its place."""
    packed = cast(PackedBinaryConv2d, model.get_submodule(conv))
    packed.threshold, packed.flip = batch_norm_threshold(cast(nn.BatchNorm2d, model.get_submodule(norm)))
    packed.norm = True
    return _take_out(model, [norm, *between])


def _take_out(model: nn.Module, paths: list[str]) -> nn.Module:
    for path in paths:
        old, new = model.get_submodule(path), nn.Identity().eval()
        carry_hooks(old, new)
        model = replace(model, all_paths(model, old), new)
    return model


def _nodes_of(reader: Reader, path: str) -> list[Node]:
    def inside(node: Node) -> bool:
        return node.op == "call_function" and path in modules_around(reader, node)

    return [node for node in reader.program.graph.nodes if inside(node)]


def _link(reader: Reader, path: str, owner: dict[Node, str]) -> Link | None:
    """The packed convolution that is the only consumer of this one's output, if the two can be joined."""
    leaving = [n for n, p in owner.items() if p == path and any(owner.get(user) != path for user in reader.readers(n))]
    if len(leaving) != 1:
        return None
    others = {node: p for node, p in owner.items() if p != path}
    target, between = _only_reader(reader, leaving[0], others, (*RELUS, *_CLIPS))
    if target is None:
        return None
    first, second = (cast(PackedBinaryConv2d, reader.model.get_submodule(p)) for p in (path, target))
    clipped = any(type(reader.model.get_submodule(p)) is nn.Hardtanh for p in between)
    if PackedBinaryChain.why_not(first, second) or (clipped and second.threshold is not None):
        return None
    return target, between


def _only_reader(
    reader: Reader, node: Node, owner: dict[Node, str], through: tuple[Any, ...]
) -> tuple[str | None, list[str]]:
    """The packed convolution that is the only consumer of a value, and the modules on the way; None if there is none.

    On the way may lie operators without effect, and the operators `through` where they are modules that can be removed.
    """
    between: list[str] = []
    while True:
        following = reader.readers(node)
        targets = {owner.get(user) for user in following}
        if len(targets) == 1 and None not in targets:
            return targets.pop(), between
        if len(following) != 1:
            return None, between
        node = following[0]
        if node.target in through and (node.target not in _CLIPS or _keeps_signs(node)):
            module = _module_of(reader, node)
            if module is None:
                return None, between
            between.append(module)
        elif not does_nothing(node):
            return None, between


def _keeps_signs(node: Node) -> bool:
    """Does this clipping leave every sign as it is?"""
    low, high = [*cast(tuple[float, ...], node.args[1:]), *(-1.0, 1.0)[len(node.args) - 1 :]]
    return low < 0 <= high


def _module_of(reader: Reader, node: Node) -> str | None:
    """The path of the `nn.ReLU` or `nn.Hardtanh` whose only call is this operator, or None."""
    path = module_of(reader, node)
    known = path is not None and type(reader.model.get_submodule(path)) in (nn.ReLU, nn.Hardtanh)
    return path if known else None


def join_chain(model: nn.Module, paths: list[str], between: list[list[str]]) -> nn.Module:
    """Put a `PackedBinaryChain` in the place of the first convolution; identities stand where the others were."""
    convs = [cast(PackedBinaryConv2d, model.get_submodule(path)) for path in paths]
    for conv, modules in zip(convs, between, strict=False):
        conv.relu = conv.relu or any(isinstance(model.get_submodule(path), nn.ReLU) for path in modules)
    chain = PackedBinaryChain(convs)
    # the others leave first: once the chain stands in the model, it holds them too
    model = _take_out(model, [*paths[1:], *(path for modules in between for path in modules)])
    head = model.get_submodule(paths[0])
    carry_hooks(head, chain)
    return replace(model, all_paths(model, head), chain)
