"""Questions about a model's data flow, answered from one `torch.export` of it.

Edits are made on the eager modules; the exported graph only says which parameters meet in which operator. Module
definition order says nothing about that, and `torch.fx` tracing misreads shared convolutions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from ..hooks import Hooks, writes
from .export import export_program
from .frozen import as_batch_norm
from .inputs import Inputs
from .pool_first import why_not_pool_first
from .sites import all_paths

_CONVOLUTIONS = (
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv2d.padding,
    torch.ops.aten.convolution.default,
)
BATCH_NORM = torch.ops.aten.batch_norm.default
_SLICE = re.compile(r"slice\((None|-?\d+), (None|-?\d+), (None|-?\d+)\)")
_ADDITIONS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)
_NO_EFFECT = (torch.ops.aten._assert_tensor_metadata.default,)
DROPOUTS = (torch.ops.aten.dropout.default, torch.ops.aten.dropout_.default, torch.ops.aten.feature_dropout.default)
_AVERAGES = (torch.ops.aten.avg_pool2d.default,)
IDENTITIES = (torch.ops.aten.clone.default, torch.ops.aten.contiguous.default, torch.ops.aten.detach.default)


@dataclass(frozen=True)
class Edge:
    """A batch norm that is the only consumer of one module's output."""

    source: str
    norm: str


@dataclass(frozen=True)
class Graph:
    """What the exported graph says about folding.

    Attributes:
        foldable: batch norms that fold into the module before them.
        kept: `(path, reason)` of the others, and of 1x1 convolutions that average pooling stays behind.
        unreached: paths of modules with parameters that the example does not use.
        sums: groups of modules (convolutions, identity batch norms) that read one tensor and are only ever summed.
            Where a sum is formed in place, also the module whose output is its first term: the merged one must stand
            there.
        unread: `(path, reason)` of parts of the model that no export could read.
        pooled: `(convolution, pooling)` that commute, once batch norms are folded: the pooling can come first.
    """

    foldable: tuple[Edge, ...]
    kept: tuple[tuple[str, str], ...]
    sums: tuple[tuple[tuple[str, ...], str | None], ...]
    unreached: tuple[str, ...] = ()
    unread: tuple[tuple[str, str], ...] = ()
    pooled: tuple[tuple[str, str], ...] = ()


class Reader:
    """One exported program with its parameters traced back to module paths."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self.model = model
        self.program = export_program(model, inputs)
        signature = self.program.graph_signature
        self.names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}

    def owner(self, node: Any, attribute: str) -> str | None:
        """The path of the module whose `attribute` this placeholder is, or None for a computed value."""
        if not isinstance(node, Node) or node.op != "placeholder" or node.name not in self.names:
            return None
        path, _, name = self.names[node.name].rpartition(".")
        return path if name == attribute else None

    def readers(self, node: Node) -> list[Node]:
        """The operators that read a value."""
        return [user for user in node.users if user.target not in _NO_EFFECT]

    def convolution(self, node: Node) -> str | None:
        """The path of the module that consists of this operator alone, or None."""
        if node.op != "call_function" or node.target not in _CONVOLUTIONS:
            return None
        path = self.owner(node.args[1], "weight")
        return path if path is not None and isinstance(self.model.get_submodule(path), nn.Conv2d) else None


def read_graph(model: nn.Module, inputs: Inputs) -> Graph:
    """Export the model once and find its foldable batch norms and summed parallel convolutions.

    Raises:
        FusionError: `torch.export` cannot read the model.
    """
    reader = Reader(model, inputs)
    foldable: list[Edge] = []
    kept: list[tuple[str, str]] = []
    linear: dict[Node, tuple[str, Any]] = {}  # operators that are or will become one convolution: (module, input)
    for node in reader.program.graph.nodes:
        conv = reader.convolution(node)
        if conv is not None and len(reader.readers(node.args[1])) == 1:
            linear[node] = (conv, node.args[0])
        if node.op != "call_function" or node.target is not BATCH_NORM:
            continue
        path = reader.owner(node.args[3], "running_mean")
        source, reason = source_of(reader, node, through_dropout=True)
        if path is None or source is None:
            kept.append((path or str(node), reason))
            if path is not None and _is_single_norm(reader, node, path):
                linear[node] = (path, node.args[0])
        else:
            foldable.append(Edge(source, path))
            if node.args[0] in linear:
                linear[node] = linear[node.args[0]]
    pooled, behind = _pooled(reader, linear, {edge.source for edge in foldable})
    # one for each call of a module
    foldable, kept = list(dict.fromkeys(foldable)), list(dict.fromkeys([*kept, *behind]))
    sums = tuple(_summed(reader, linear))
    return Graph(tuple(foldable), tuple(kept), sums, _unreached(reader), pooled=tuple(pooled))


def _pooled(
    reader: Reader, linear: dict[Node, tuple[str, Any]], folded: set[str]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Average poolings that alone read a 1x1 convolution: `(convolution, pooling)`, and `(convolution, reason)`."""
    found, behind = [], []
    for node in reader.program.graph.nodes:
        if node.op != "call_function" or node.target not in _AVERAGES:
            continue
        source = node.args[0]
        while does_nothing(source) and len(reader.readers(source)) == 1:
            source = source.args[0]
        conv = linear.get(source, ("", None))[0]
        module = reader.model.get_submodule(conv)
        if len(reader.readers(source)) > 1 or not isinstance(module, nn.Conv2d) or module.kernel_size != (1, 1):
            continue
        pool = module_of(reader, node)
        pooling = nn.Identity() if pool is None else reader.model.get_submodule(pool)
        reason = why_not_pool_first(module, pooling, biased=module.bias is not None or conv in folded)
        if reason is None and pool is not None:
            found.append((conv, pool))
        else:
            behind.append((conv, f"pooling stays behind it: {reason}"))
    return found, behind


def _unreached(reader: Reader) -> tuple[str, ...]:
    """The modules of which no operator reads a parameter, under any of its names."""
    used = {
        id(reader.model.get_submodule(reader.names[node.name].rpartition(".")[0]))
        for node in reader.program.graph.nodes
        if node.op == "placeholder" and node.name in reader.names and reader.readers(node)
    }
    return tuple(
        path
        for path, module in reader.model.named_modules()
        if next(module.parameters(recurse=False), None) is not None and id(module) not in used
    )


def _is_single_norm(reader: Reader, node: Node, path: str) -> bool:
    """Can this batch norm be one term of a sum (a RepVGG identity branch)? Plain, in eval mode, called once."""
    module = reader.model.get_submodule(path)
    plain = type(module) is nn.BatchNorm2d or as_batch_norm(module) is not None
    return plain and not node.args[5] and len(reader.readers(node.args[3])) == 1  # type: ignore[arg-type]


def source_of(reader: Reader, norm: Node, *, through_dropout: bool = False) -> tuple[str | None, str]:
    """The module that a batch norm folds into, or None and the reason.

    Both may be called several times, as a head is on several maps, if every call of the one leads to the other.
    `through_dropout`: whether dropout may lie between, which does nothing in eval mode.
    """
    statistics = norm.args[3]
    if norm.args[5] or not isinstance(statistics, Node):
        return None, "it normalises by the batch"
    calls = reader.readers(statistics)
    if any(isinstance(own, Node) and set(reader.readers(own)) != set(calls) for own in norm.args[1:5]):
        return None, "it, or a parameter of it, is used more than once"
    path = reader.owner(statistics, "running_mean")
    reason = _norm_type(reader.model.get_submodule(path)) if path is not None else "its statistics are computed"
    if reason:
        return None, reason
    found = [_read_by(reader, call, through_dropout) for call in calls if call.target is BATCH_NORM]
    source, conv, reason = found[0] if found else (None, None, "something else reads its statistics")
    if source is None:
        return None, reason
    if len(calls) > 1 and (len(found) < len(calls) or {each[0] for each in found} != {source}):
        return None, "it, or a parameter of it, is used more than once"
    convolutions = {each[1] for each in found}
    if conv and any(isinstance(own, Node) and set(reader.readers(own)) != convolutions for own in conv.args[1:3]):
        return None, f"{source}, or a parameter of it, is used more than once"
    return source, ""


def _read_by(reader: Reader, norm: Node, through_dropout: bool) -> tuple[str | None, Node | None, str]:
    """What one call of a batch norm reads, and nothing else: `(module, its convolution or None, "")` or the reason."""
    node = norm.args[0]
    while isinstance(node, Node) and len(reader.readers(node)) == 1:
        if not (node.target in IDENTITIES or (through_dropout and does_nothing(node))):
            break
        node = node.args[0]
    if not isinstance(node, Node) or node.op != "call_function":
        return None, None, "it reads the model's input"
    if len(reader.readers(node)) > 1:
        return None, None, "something else also reads what it normalises"
    absorbing, conv = _absorbing_module(reader, node), reader.convolution(node)
    if absorbing is None and conv is None:
        return None, None, f"it follows {_operator_name(node)}, not a convolution"
    return (conv, node, "") if absorbing is None else (absorbing, None, "")


def does_nothing(node: Node) -> bool:
    """Is this operator without effect in eval mode? Dropout is, unless the network always drops."""
    return node.target in IDENTITIES or (node.target in DROPOUTS and not node.args[2])


def _operator_name(node: Node) -> str:
    if node.target in _CONVOLUTIONS:
        return "a convolution with a computed or shared weight"
    return str(getattr(node.target, "__name__", node.target)).split(".")[0].rstrip("_")


def _norm_type(norm: nn.Module) -> str | None:
    """Why this batch norm module cannot be taken out, or None."""
    if type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm) or after_norm(norm) is not None:
        return None
    if as_batch_norm(norm) is not None:
        return None
    return f"it is a {type(norm).__module__}.{type(norm).__name__}"


def after_norm(norm: nn.Module) -> nn.Module | None:
    """The dropout and activation of a timm `BatchNormAct2d`, which remain without its normalisation, or None."""
    if type(norm).__name__ in ("BatchNormAct2d", "SyncBatchNormAct") and isinstance(
        norm, nn.BatchNorm2d | nn.SyncBatchNorm
    ):
        drop, act = getattr(norm, "drop", None), getattr(norm, "act", None)
        if isinstance(drop, nn.Module) and isinstance(act, nn.Module):
            return act if isinstance(drop, nn.Identity) else nn.Sequential(drop, act)
    return None


def _absorbing_module(reader: Reader, node: Node) -> str | None:
    """The path of an enclosing module that can fold an affine map of its output, if `node` is its output."""
    for path in modules_around(reader, node):
        if writes(reader.model.get_submodule(path), Hooks.fold_affine):
            return path if len(calls_of(reader, path)) == 1 else None
    return None


def modules_around(reader: Reader, node: Node) -> list[str]:
    """The paths of the modules that called this operator, from the outermost."""
    return [path for _, path in _stack(reader, node)]


def calls_of(reader: Reader, path: str) -> set[str]:
    """The distinct calls of a module in the graph, under all of its names.

    `torch.export` marks repeated calls by a suffix of the stack's key.
    """
    names = all_paths(reader.model, reader.model.get_submodule(path))
    return {key for node in reader.program.graph.nodes for key, where in _stack(reader, node) if where in names}


def module_of(reader: Reader, node: Node) -> str | None:
    """The path of the innermost module that called this operator, or None unless the graph calls that module once."""
    path = next(reversed(modules_around(reader, node)), "")
    return path if path and len(calls_of(reader, path)) == 1 else None


def _stack(reader: Reader, node: Node) -> list[tuple[str, str]]:
    """Key and path of every call around an operator, from the outermost."""
    named = [(key, where.split("@")[0]) for key, (where, _) in node.meta.get("nn_module_stack", {}).items()]
    return [(key, _unsliced(reader.model, path) if "slice(" in path else path) for key, path in named]


def _unsliced(model: nn.Module, path: str) -> str:
    """A path of the model for one that the graph writes through a slice: `layers.slice(None, -1, None).0` for
    `layers[:-1]`. A sliced Sequential keeps the names of its modules, a sliced ModuleList counts anew.
    """
    names: list[str] = []
    parts = iter(path.split("."))
    for part in parts:
        match = _SLICE.fullmatch(part)
        name = next(parts, None) if match else part
        if match and name is not None and isinstance(holder := model.get_submodule(".".join(names)), nn.ModuleList):
            bounds = (None if text == "None" else int(text) for text in match.groups())
            name = str(range(len(holder))[slice(*bounds)][int(name)])
        names += [] if name is None else [name]
    return ".".join(names)


def _summed(reader: Reader, linear: dict[Node, tuple[str, Any]]) -> list[tuple[tuple[str, ...], str | None]]:
    """Maximal sums with several terms that are linear in one tensor, at least one of them a convolution."""
    groups: list[tuple[tuple[str, ...], str | None]] = []
    for node in reader.program.graph.nodes:
        if node.op != "call_function" or node.target not in _ADDITIONS:
            continue
        if any(user.target in _ADDITIONS and len(node.users) == 1 for user in node.users):
            continue  # an inner term of a larger sum, handled there
        by_input: dict[Node, list[str]] = {}
        for term in _terms(node):
            if term in linear and len(reader.readers(term)) == 1:
                path, source = linear[term]
                by_input.setdefault(source, []).append(path)
        for paths in by_input.values():
            if len(paths) > 1 and any(isinstance(reader.model.get_submodule(p), nn.Conv2d) for p in paths):
                # the other branches become a broadcast zero, to which a whole map cannot be added in place
                groups.append((tuple(paths), paths[0] if _adds_in_place(node) else None))
    return groups


def _adds_in_place(node: Node) -> bool:
    """Is any addition of this sum written into its first term?"""
    inner = [a for a in node.args[:2] if isinstance(a, Node) and a.target in _ADDITIONS and len(a.users) == 1]
    return node.target is torch.ops.aten.add_.Tensor or any(_adds_in_place(a) for a in inner)


def _terms(node: Node) -> list[Node]:
    """The terms of a sum of tensors, looking through inner sums that nothing else reads."""
    terms: list[Node] = []
    for argument in node.args[:2]:
        if not isinstance(argument, Node):
            continue
        if argument.target in _ADDITIONS and len(argument.users) == 1 and not argument.kwargs:
            terms += _terms(argument)
        else:
            terms.append(argument)
    return [] if node.kwargs else terms
