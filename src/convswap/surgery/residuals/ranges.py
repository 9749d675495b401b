"""Between which bounds the values of every map lie, as far as the operators of the exported graph show.

A rectifier leaves a non-negative map unchanged. Whether a block's input is non-negative is derived here, never assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from torch.fx import Graph, Node

from .operators import alias_of, argument, in_place, name_of

Range = tuple[float, float]
ANYTHING: Range = (-inf, inf)

# These pass on values of their input, or means of such values.
_KEEPING = {"adaptive_avg_pool2d", "mean", "max_pool2d", "adaptive_max_pool2d", "slice", "select", "view", "reshape"}
_KEEPING |= {"flatten", "permute", "transpose", "expand", "expand_as", "squeeze", "unsqueeze", "channel_shuffle"}
_FIXED: dict[str, Range] = {"sigmoid": (0, 1), "hardsigmoid": (0, 1), "softmax": (0, 1), "tanh": (-1, 1)}
_VIEWS = {"slice", "select", "view", "reshape", "flatten", "permute", "transpose", "expand", "expand_as"}
_VIEWS |= {"squeeze", "unsqueeze", "chunk", "split", "getitem"}


def find_ranges(graph: Graph) -> dict[Node, Range]:
    """The bounds of every node's values."""
    found: dict[Node, Range] = {}
    for node in graph.nodes:
        found[node] = _range(node, found) if node.op == "call_function" else ANYTHING
        if node.op == "call_function" and in_place(node):
            _overwrite(node, found)
    return found


def _overwrite(node: Node, found: dict[Node, Range]) -> None:
    """What is written in place shows in the argument too, and in the map that this is a view of."""
    target: Any = node.args[0]
    while isinstance(target, Node):
        found[target] = _union(found[target], found[node])
        passes = target.op == "call_function" and (alias_of(target) or in_place(target) or name_of(target) in _VIEWS)
        target = target.args[0] if passes else None


def _range(node: Node, found: Mapping[Node, Range]) -> Range:
    name = name_of(node)
    source: Any = node.args[0] if node.args else None
    own = found.get(source, ANYTHING) if isinstance(source, Node) else ANYTHING
    if alias_of(node) is not None or name in _KEEPING:
        return own
    if name in _FIXED:
        return _FIXED[name]
    if name == "cat":
        return _union(*(found.get(each, ANYTHING) for each in source))
    if name == "avg_pool2d":
        padded = argument(node, 3, "padding", 0)
        return ANYTHING if argument(node, 6, "divisor_override", None) else _union(own, (0, 0)) if padded else own
    bounds = _clamp(name, node)
    if bounds is not None:
        return tuple(min(max(each, bounds[0]), bounds[1]) for each in own)  # type: ignore[return-value]
    if name in ("add", "mul") and len(node.args) > 1 and not node.kwargs:
        return _PAIRWISE[name](*(_value(each, found) for each in node.args[:2]))
    return ANYTHING


def _clamp(name: str, node: Node) -> Range | None:
    if name == "relu":
        return 0, inf
    if name == "relu6":
        return 0, 6
    if name not in ("hardtanh", "clamp", "clamp_min"):
        return None
    default = (-1, 1) if name == "hardtanh" else (None, None)
    low, high = argument(node, 1, "min_val", default[0]), argument(node, 2, "max_val", default[1])
    if isinstance(low, Node) or isinstance(high, Node) or node.kwargs:
        return None
    return -inf if low is None else low, inf if high is None else high


def _value(value: Any, found: Mapping[Node, Range]) -> Range:
    if isinstance(value, Node):
        return found.get(value, ANYTHING)
    return (value, value) if isinstance(value, int | float) else ANYTHING


def _add(a: Range, b: Range) -> Range:
    return a[0] + b[0], a[1] + b[1]


def _multiply(a: Range, b: Range) -> Range:
    products = [0.0 if 0 in (x, y) else x * y for x in a for y in b]
    return min(products), max(products)


_PAIRWISE: dict[str, Callable[[Range, Range], Range]] = {"add": _add, "mul": _multiply}


def _union(*ranges: Range) -> Range:
    return min(low for low, _ in ranges), max(high for _, high in ranges)
