"""One forward pass as data: which operator read which value, and which module returned it.

The pass runs eagerly, so any unit and any host can be read. Values are known by the tensor that holds them. An operator
that works in place makes a new value of the same tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...surgery.inputs import Inputs
from ...surgery.observe import follow_calls, run_watched
from ...surgery.tree import tensors_of

_ADDITIONS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)


@dataclass
class Node:
    """One value: an input of the network, or what an operator computed.

    Attributes:
        index: its position on the tape.
        operator: the name of the operator, "" for an input.
        sources: the values it was computed from that depend on an input of the network.
        inside: the modules that were being called, from the outermost, by their ids.
        shape: of the tensor.
        is_sum: whether the operator adds two maps of this shape.
        readers: the values computed from it.
        returned_by: the calls that returned it, the innermost first.
    """

    index: int
    operator: str
    sources: tuple[int, ...]
    inside: tuple[int, ...]
    shape: tuple[int, ...]
    is_sum: bool = False
    readers: list[int] = field(default_factory=list)
    returned_by: list[Call] = field(default_factory=list)


@dataclass(frozen=True)
class Call:
    """One call of a module: its path, and what it read and returned (None: no single tensor)."""

    path: str
    module: nn.Module
    entered: int | None
    returned: int | None
    depth: int


class Tape(TorchDispatchMode):
    """Records one pass of a model over an example in eval mode.

    Attributes:
        nodes: every value that depends on an input, in the order of the pass.
        calls: every call of a module, in the order in which they end.
        output: the value that the model returned, None unless it is one tensor.

    Raises:
        SurgeryError: the model does not accept the example.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.model = model
        self.nodes: list[Node] = []
        self.calls: list[Call] = []
        self._names = {id(module): path for path, module in model.named_modules()}
        self._values: dict[int, int] = {}  # tensor -> its present value
        self._kept: list[Tensor] = []  # or a later tensor could get an earlier one's id
        self._stack: list[tuple[nn.Module, int | None]] = []
        with follow_calls(model, self._enter, self._leave):
            run_watched(model, inputs, self, [])
        self.output = self.calls[-1].returned
        self._kept.clear()

    def _enter(self, module: nn.Module, arguments: Any) -> None:
        if not self._stack:
            for tensor in tensors_of(arguments):
                self._note(tensor, "", ())
        first = next(iter(tensors_of(arguments)), None)
        self._stack.append((module, None if first is None else self._values.get(id(first))))

    def _leave(self, module: nn.Module, output: Any) -> None:
        _, entered = self._stack.pop()
        returned = self._values.get(id(output)) if isinstance(output, Tensor) else None
        call = Call(self._names[id(module)], module, entered, returned, len(self._stack))
        self.calls.append(call)
        if returned is not None:
            self.nodes[returned].returned_by.append(call)

    def _note(self, tensor: Tensor, operator: str, sources: tuple[int, ...], *, is_sum: bool = False) -> None:
        inside = tuple(id(module) for module, _ in self._stack)
        node = Node(len(self.nodes), operator, sources, inside, tuple(tensor.shape), is_sum)
        for source in dict.fromkeys(sources):
            self.nodes[source].readers.append(node.index)
        self.nodes.append(node)
        self._values[id(tensor)] = node.index
        self._kept.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = [self._values[id(t)] for t in tensors_of([args, kwargs]) if id(t) in self._values]
        if read:
            is_sum = func in _ADDITIONS and len(read) == 2 and args[0].dim() == 4 and args[0].shape == args[1].shape
            for tensor in tensors_of(result):
                self._note(tensor, func._schema.name.partition("::")[2], tuple(read), is_sum=is_sum)
        return result

    def inside(self, module: nn.Module) -> Iterator[Node]:
        """The values computed while this module was being called."""
        return (node for node in self.nodes if id(module) in node.inside)

    def calls_of(self, module: nn.Module) -> list[Call]:
        """Every call of this module."""
        return [call for call in self.calls if call.module is module]

    def ancestors(self, index: int, stop: int | None) -> set[int]:
        """The values that a value was computed from, itself included, not those before `stop`."""
        found: set[int] = set()
        waiting = [index]
        while waiting:
            each = waiting.pop()
            if each not in found and each != stop:
                found.add(each)
                waiting += self.nodes[each].sources
        return found

    @cached_property
    def used(self) -> set[int]:
        """The values that the output depends on; all values, where the output is not one tensor."""
        return set(range(len(self.nodes))) if self.output is None else self.ancestors(self.output, None)

    def readers(self, node: Node) -> list[int]:
        """The values computed from a value that lead to the output."""
        return [reader for reader in node.readers if reader in self.used]

    def narrows(self) -> list[Node]:
        """The values through which everything passes from the inputs to the output: no other value is alive then."""
        found, alive = [], -1
        for node in self.nodes if self.output is not None else []:
            if node.index in self.used:
                if alive <= node.index and node.sources:
                    found.append(node)
                alive = max([alive, *self.readers(node)])
        return found
