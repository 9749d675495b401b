"""The graphs of a model's parts, where `torch.export` cannot read the whole: the largest parts that it can read.

One run of the example shows what every part is called with. A part that is called in several ways (with maps of several
sizes, say) is exported for each of them, and only what all of these graphs agree on counts.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FusionError
from .frozen import is_norm
from .graph import Edge, Graph, read_graph
from .inputs import Inputs

_MOST_WAYS = 8  # of calling one part; each costs an export


def read_parts(model: nn.Module, inputs: Inputs, *, alone: bool = True) -> Graph:
    """What the graph of a model says about folding, or what the graphs of its parts say.

    Args:
        model: in eval mode.
        inputs: the example.
        alone: whether parts are read at all. If not, a model that cannot be exported gives an empty graph.
    """
    try:
        return read_graph(model, inputs)
    except FusionError as error:
        why = ("(the model)", f"only parts of it were looked into: {error}" if alone else str(error))
    found = _Parts(model, inputs) if alone else None
    if found is None:
        return Graph((), (), (), unread=(why,))
    found.visit("", model)
    return found.graph(why)


class _Parts:
    """Walks down from the model and gathers the graphs of the parts that can be exported."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self.norms = {id(module) for module in model.modules() if is_norm(module)}
        holders = {id(m): m for m in model.modules() if any(id(inner) in self.norms for inner in m.modules())}
        self.calls = _Calls(model, inputs, holders)
        self.visited: set[int] = set()
        self.graphs: list[Graph] = []
        self.unread: list[tuple[str, str]] = []

    def visit(self, path: str, module: nn.Module) -> None:
        """Read the children of a module that cannot be read itself."""
        for name, child in module.named_children():
            where = f"{path}.{name}" if path else name
            if id(child) in self.visited or not any(id(inner) in self.norms for inner in child.modules()):
                continue
            self.visited.add(id(child))
            if id(child) in self.norms:
                self.unread.append((where, self._why_alone(path, child)))
                continue
            ways = self.calls.ways.get(id(child), [])
            if not ways:  # a container, or a part that the example does not call
                self.visit(where, child)
                continue
            try:
                self.graphs.append(self._read(where, child, ways))
            except FusionError as error:
                self.unread.append((where, f"only parts of it were looked into: {error}"))
                self.visit(where, child)

    def _why_alone(self, path: str, norm: nn.Module) -> str:
        if not self.calls.reach(norm):
            return "a pass over the example does not call it"
        return f"it stands directly in {path or 'the model'}, which cannot be exported"

    def _read(self, path: str, part: nn.Module, ways: list[Inputs]) -> Graph:
        if len(ways) > _MOST_WAYS:
            raise FusionError(f"it is called in more than {_MOST_WAYS} ways")
        graphs = [read_graph(part, way.map(lambda tensor: tensor.contiguous())) for way in ways]
        inside = self.calls.only_inside(part)

        def own(path: str) -> bool:
            return id(part.get_submodule(path)) in inside

        first = graphs[0]
        folds = [e for e in first.foldable if all(e in g.foldable for g in graphs) and own(e.source) and own(e.norm)]
        sums = [s for s in first.sums if all(s in g.sums for g in graphs) and all(map(own, s[0]))]
        folded = {edge.norm for edge in folds}
        kept = dict(pair for graph in graphs for pair in graph.kept)
        kept |= {e.norm: "calls of it differ" for g in graphs for e in g.foldable if e.norm not in folded | set(kept)}
        unreached = [name for name in first.unreached if all(name in graph.unreached for graph in graphs)]
        pooled = tuple(p for p in first.pooled if all(p in g.pooled for g in graphs) and all(map(own, p)))
        found = Graph(tuple(folds), tuple(kept.items()), tuple(sums), tuple(unreached), pooled=pooled)
        return _under(path, found)

    def graph(self, why: tuple[str, str]) -> Graph:
        """All parts together."""
        parts = self.graphs
        return Graph(
            tuple(edge for part in parts for edge in part.foldable),
            tuple(kept for part in parts for kept in part.kept),
            tuple(each for part in parts for each in part.sums),
            tuple(path for part in parts for path in part.unreached),
            (why, *self.unread),
            tuple(pair for part in parts for pair in part.pooled),
        )


def _under(prefix: str, graph: Graph) -> Graph:
    """The graph of a part, with the paths that the whole model knows."""

    def named(path: str) -> str:
        return f"{prefix}.{path}" if path else prefix

    return Graph(
        tuple(Edge(named(edge.source), named(edge.norm)) for edge in graph.foldable),
        tuple((named(path), reason) for path, reason in graph.kept),
        tuple((tuple(map(named, paths)), None if at is None else named(at)) for paths, at in graph.sums),
        tuple(map(named, graph.unreached)),
        pooled=tuple((named(conv), named(pool)) for conv, pool in graph.pooled),
    )


class _Calls:
    """What one run of the example calls the modules with, and inside which other modules.

    Attributes:
        ways: by a module's id, its distinct calls. Tensors are kept by shape, without memory.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, holders: dict[int, nn.Module]) -> None:
        self.ways: dict[int, list[Inputs]] = {}
        self._seen: dict[int, set[str]] = {}
        self._around: dict[int, set[int]] = {}
        stack: list[int] = []

        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            around = self._around.setdefault(id(module), set(stack))
            around &= set(stack)
            stack.append(id(module))
            if id(module) in holders:
                self._note(id(module), Inputs(args, kwargs))

        def leave(*_: Any) -> None:
            stack.pop()

        with ExitStack() as hooks, torch.no_grad():
            for module in model.modules():
                hooks.callback(module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(leave, always_call=True).remove)
            inputs.call(model)

    def _note(self, key: int, call: Inputs) -> None:
        way = repr(call.map(lambda t: (tuple(t.shape), t.dtype)))
        if way not in self._seen.setdefault(key, set()):
            self._seen[key].add(way)
            self.ways.setdefault(key, []).append(call.map(_without_memory))

    def reach(self, module: nn.Module) -> bool:
        """Is this module called?"""
        return id(module) in self._around

    def only_inside(self, part: nn.Module) -> set[int]:
        """The ids of the modules that are called inside this part, and nowhere else."""
        return {key for key, around in self._around.items() if id(part) in around}


def _without_memory(tensor: Tensor) -> Tensor:
    return tensor.new_zeros(()).expand(tensor.shape)
