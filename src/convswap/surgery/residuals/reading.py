"""A residual block read from the exported graph: `x -> before -> (trunk + shortcut) -> after`.

The two branches start at one map, the **fork**. The trunk holds the activations. The shortcut is linear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from ..graph import Reader
from ..sites import all_paths
from .operators import (
    ADDITIONS,
    LINEAR,
    Activation,
    Convolution,
    Gate,
    Operator,
    Subsample,
    UnreadableError,
    alias_of,
    argument,
    in_place,
    name_of,
    parameter_name,
    read_operator,
    shape_of,
)
from .ranges import Range

_SHAPING = {"view", "reshape", "flatten", "expand", "expand_as", "squeeze", "unsqueeze"}
_POOLS = {"mean", "adaptive_avg_pool2d"}
_MULTIPLY = "mul"


@dataclass(frozen=True)
class Residual:
    """One residual block as data.

    Attributes:
        before: the operators from the block's input to the fork.
        trunk: the branch with activations.
        shortcut: the linear branch; empty for the identity.
        after: the operators behind the addition.
        entering: channels of the block's input.
        channels: channels of the fork.
        bounds: of the fork's values.
    """

    before: tuple[Operator, ...]
    trunk: tuple[Operator, ...]
    shortcut: tuple[Operator, ...]
    after: tuple[Operator, ...]
    entering: int
    channels: int
    bounds: Range


class BlockReader:
    """Reads the blocks of one exported program."""

    def __init__(self, reader: Reader, ranges: Mapping[Node, Range]) -> None:
        self.reader, self.ranges = reader, ranges
        self.order = {node: index for index, node in enumerate(reader.program.graph.nodes)}

    def nodes_of(self, path: str) -> list[Node]:
        """The operators that a module computes, itself or by the modules in it."""
        names = all_paths(self.reader.model, self.reader.model.get_submodule(path))

        def inside(node: Node) -> bool:
            stack = node.meta.get("nn_module_stack", {}).values()
            return node.op == "call_function" and any(where.split("@")[0] in names for where, _ in stack)

        return [node for node in self.reader.program.graph.nodes if inside(node)]

    def additions(self, path: str) -> int:
        """The number of sums of two feature maps that a module computes."""
        return sum(is_addition(node) for node in self.nodes_of(path))

    def read(self, path: str) -> Residual:
        """The block at a path.

        Raises:
            UnreadableError: it is no residual block of one trunk and one linear shortcut, with the reason.
        """
        nodes = self.nodes_of(path)
        entry, end = self._ends(set(nodes))
        after, node = [], end
        while not is_addition(node):
            if node is entry:
                raise UnreadableError("its output is no sum of two maps")
            operator, node = self._step(node)
            after += [] if operator is None else [operator]
        if node.kwargs or shape_of(node.args[0]) != shape_of(node.args[1]):
            raise UnreadableError("it adds maps of different shapes or with a factor")
        self._refuse_overwriting(node)
        sides = [self._branch(side, entry) for side in node.args[:2]]  # type: ignore[arg-type]
        return self._assemble(sides, after[::-1], entry)

    def _ends(self, nodes: set[Node]) -> tuple[Node, Node]:
        """The map that enters and the map that leaves."""
        read = {each for node in nodes for each in node.all_input_nodes if each not in nodes}
        entering = {each for each in read if self._is_computed(each)}
        leaving = {node for node in nodes if any(user not in nodes for user in self.reader.readers(node))}
        if len(entering) != 1 or len(leaving) != 1:
            raise UnreadableError(f"{len(entering)} values enter it and {len(leaving)} leave it, not one and one")
        entry, end = entering.pop(), leaving.pop()
        if len(shape_of(entry)) != 4 or len(shape_of(end)) != 4:
            raise UnreadableError("what enters or leaves it is no feature map (N, C, H, W)")
        return entry, end

    def _branch(self, node: Node, entry: Node) -> list[tuple[Node, Operator | None]]:
        """The maps from the block's input to one side of the sum, each with the operator that made it."""
        found: list[tuple[Node, Operator | None]] = []
        while node is not entry:
            if is_addition(node):
                raise UnreadableError("it adds more than two maps")
            operator, source = self._step(node)
            found.append((node, operator))
            node = source
        return [(entry, None), *found[::-1]]

    def _step(self, node: Node) -> tuple[Operator | None, Node]:
        """The operator that made a map, None if it changed nothing, and the map before it."""
        if node.op != "call_function":
            raise UnreadableError("one of its branches does not start at the block's input")
        same = alias_of(node)
        if same is not None:
            return None, same
        self._refuse_overwriting(node)
        if name_of(node) == _MULTIPLY and all(self._is_computed(each) for each in node.args[:2]):
            gate = self._gate(node)
            if gate is not None:
                return gate
        operator, source = read_operator(self.reader, node)
        return (None if operator == Subsample((1, 1)) else operator), source

    def _is_computed(self, value: Any) -> bool:
        return isinstance(value, Node) and not (value.op == "placeholder" and value.name in self.reader.names)

    def _gate(self, node: Node) -> tuple[Gate, Node] | None:
        """A squeeze-and-excite gate, and the map that it multiplies; None if no mean is taken of the other factor."""
        for gate, gated in (node.args[:2], node.args[1::-1]):
            layers: list[Operator] = []
            inner: Any = gate
            while isinstance(inner, Node) and inner.op == "call_function" and name_of(inner) not in _POOLS:
                if len(self.reader.readers(inner)) != 1:
                    break
                if name_of(inner) in _SHAPING or alias_of(inner) is not None:
                    inner = inner.args[0]
                    continue
                operator, inner = read_gate_layer(self.reader, inner)
                layers.append(operator)
            if not isinstance(inner, Node) or not _is_channel_mean(inner) or inner.args[0] is not gated:
                continue
            if set(self.reader.readers(gated)) != {inner, node}:  # type: ignore[arg-type]
                continue
            return Gate(tuple(layers[::-1])), gated  # type: ignore[return-value]
        return None

    def _refuse_overwriting(self, node: Node) -> None:
        """Raise if an operator writes into a map that something reads afterwards."""
        if not in_place(node):
            return
        target: Any = node.args[0]
        while isinstance(target, Node):
            if any(self.order[reader] > self.order[node] for reader in self._readers_by_any_name(target)):
                raise UnreadableError(f"{name_of(node)}_ writes into a map that is read again after it")
            target = alias_of(target) if target.op == "call_function" else None

    def _readers_by_any_name(self, node: Node) -> list[Node]:
        """What reads a map, also as what an operator passes on unchanged."""
        direct = self.reader.readers(node)
        return direct + [
            each for same in direct if alias_of(same) is not None for each in self._readers_by_any_name(same)
        ]

    def _assemble(
        self, sides: list[list[tuple[Node, Operator | None]]], after: list[Operator], entry: Node
    ) -> Residual:
        shared = 0
        while all(len(side) > shared for side in sides) and sides[0][shared] == sides[1][shared]:
            shared += 1
        branches = [[op for _, op in side[shared:] if op is not None] for side in sides]
        active = [any(not isinstance(op, LINEAR) for op in branch) for branch in branches]
        if all(active):
            raise UnreadableError("both of its branches hold an activation or a gate: neither is a linear shortcut")
        if not any(active):
            raise UnreadableError("both of its branches are linear: convswap.fuse makes one convolution of them")
        trunk, shortcut = branches if active[0] else branches[::-1]
        fork = sides[0][shared - 1][0]
        inner = [node for side in sides for node, _ in side[shared:]] + [node for node, _ in sides[0][1 : shared - 1]]
        for node in inner:
            self._refuse_readers(node, 1)
        if fork is not entry:
            self._refuse_readers(fork, 2)
        before = tuple(op for _, op in sides[0][1:shared] if op is not None)
        return Residual(
            before,
            tuple(trunk),
            tuple(shortcut),
            tuple(after),
            shape_of(entry)[1],
            shape_of(fork)[1],
            self.ranges[fork],
        )

    def _refuse_readers(self, node: Node, most: int) -> None:
        readers = self.reader.readers(node)
        gated = any(name_of(r) in _POOLS for r in readers) and any(name_of(r) == _MULTIPLY for r in readers)
        if len(readers) > most + gated:
            raise UnreadableError(f"the output of {name_of(node)} inside of it is read {len(readers)} times")


def _is_channel_mean(node: Node) -> bool:
    """Does this operator take the mean of every channel of a map?"""
    if name_of(node) == "mean" and sorted(d % 4 for d in argument(node, 1, "dim", None) or ()) != [2, 3]:
        return False
    return name_of(node) in _POOLS and shape_of(node)[2:] in ((1, 1), ())


def is_addition(node: Node) -> bool:
    """Does this operator add two feature maps?"""
    if node.op != "call_function" or node.target not in ADDITIONS:
        return False
    return all(isinstance(each, Node) and len(shape_of(each)) == 4 for each in node.args[:2])


def read_gate_layer(reader: Reader, node: Node) -> tuple[Operator, Node]:
    """One layer of a gate. A linear layer is read as the 1x1 convolution that it is on one pixel.

    Raises:
        UnreadableError: it is neither a convolution nor an elementwise function.
    """
    if name_of(node) == "linear":
        weight = parameter_name(reader, node.args[1], "the weight of a linear layer")
        bias = parameter_name(reader, argument(node, 2, "bias", None), "the bias of a linear layer")
        return Convolution(str(weight), bias), node.args[0]  # type: ignore[return-value]
    operator, source = read_operator(reader, node)
    if not isinstance(operator, Convolution | Activation):
        raise UnreadableError(f"its gate computes {name_of(node)}")
    return operator, source
