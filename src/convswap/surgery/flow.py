"""Which convolutions read the network's input or make its output, and who reads their weights, by one pass on shapes.

The pass runs on the meta device, on a copy without memory. It costs little and draws no random numbers. Every operator
passes on which layers its inputs come from. Every layer replaces that record by itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import first_line
from .inputs import Inputs
from .macs import meta_copy
from .observe import ReaderWatch, follow_calls
from .sites import sites
from .tree import tensors_of

_aten = torch.ops.aten
_LAYERS = (
    _aten.convolution.default,
    _aten.mm.default,
    _aten.addmm.default,
    _aten.linear.default,
    _aten._native_multi_head_attention.default,
)
_OTHER = "(another layer)"
_SIZES = (64, 224, 32)  # of the image that is guessed where none is known


@dataclass(frozen=True)
class Flow:
    """What the pass showed, by module path.

    Attributes:
        first: convolutions that read an input of the network, with no other layer between.
        output: convolutions whose result leaves the network, with no other layer between.
        readers: what reads a convolution's weight besides its own call.
    """

    first: frozenset[str]
    output: frozenset[str]
    readers: dict[str, str]


class FlowReader:
    """The flow of a model, computed when it is first needed. `problem` says why there is none."""

    def __init__(self, model: nn.Module, example: Inputs | None) -> None:
        self.model, self.example = model, example
        self.problem = ""

    @cached_property
    def flow(self) -> Flow | None:
        """The flow, or None if the model cannot run on shapes alone or accepts none of the guessed images."""
        for inputs in self._inputs():
            try:
                return _read(self.model, inputs)
            except Exception as error:  # whatever a host raises: the plan says that nothing is known
                self.problem = self.problem or first_line(error)
        return None

    def _inputs(self) -> Iterator[Inputs]:
        if self.example is not None:
            yield self.example.map(lambda tensor: tensor.to("meta"))
            return
        conv = next((site.module for site in sites(self.model)), None)
        channels = dict.fromkeys([getattr(conv, "in_channels", 3), 3, 1])
        weight: Any = getattr(conv, "weight", None)
        dtype = weight.dtype if isinstance(weight, Tensor) and weight.is_floating_point() else None
        for size in _SIZES:
            for number in channels:
                image = torch.empty(1, number, size, size, device="meta", dtype=dtype)
                yield Inputs((image,) * _required_inputs(self.model), {})


def _read(model: nn.Module, inputs: Inputs) -> Flow:
    twin = meta_copy(model).eval()
    for module in twin.modules():
        module._forward_hooks.clear()  # a user's own hooks; those before a pass may compute weights, so they stay
    convolutions = sites(twin)
    paths = {id(site.module): site.path for site in convolutions}
    watch = _Watch(twin, paths, ReaderWatch(twin, convolutions))
    with follow_calls(twin, watch.enter, watch.leave), torch.no_grad(), watch:
        result = inputs.call(twin)
    leaving = frozenset().union(*(watch.origin(tensor) for tensor in tensors_of(result)))
    return Flow(frozenset(watch.first), leaving - {_OTHER}, dict(watch.readers.found))


def _required_inputs(model: nn.Module) -> int:
    parameters = inspect.signature(model.forward).parameters.values()
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return max(1, len(needed))


@dataclass
class _Watch(TorchDispatchMode):
    """Passes on from operator to operator which layers a value comes from. Values are known by their storage."""

    model: nn.Module
    paths: dict[int, str]
    readers: ReaderWatch
    first: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self.parameters = {_key(p) for p in self.model.parameters()}
        self.origins: dict[int, frozenset[str]] = {}
        self.kept: list[Tensor] = []  # or a later value could get an earlier one's storage; meta tensors take no memory

    def origin(self, tensor: Tensor) -> frozenset[str]:
        return self.origins.get(_key(tensor), frozenset())

    def enter(self, module: nn.Module, inputs: Any) -> None:
        self.readers.enter(module)
        path = self.paths.get(id(module))
        if path is not None and not any(self.origin(tensor) for tensor in tensors_of(inputs)):
            self.first.add(path)

    def leave(self, module: nn.Module, output: Any) -> None:
        self.readers.leave()
        if id(module) in self.paths or isinstance(module, nn.Linear):
            self._set(tensors_of(output), frozenset({self.paths.get(id(module), _OTHER)}))

    def _set(self, tensors: Iterable[Tensor], origin: frozenset[str]) -> None:
        for tensor in tensors:
            self.kept.append(tensor)
            self.origins[_key(tensor)] = origin

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = tensors_of([args, kwargs])
        self.readers.note(func, read)
        if func in _LAYERS and any(_key(tensor) in self.parameters for tensor in read):
            self._set(tensors_of(result), frozenset({_OTHER}))
            return result
        origin = frozenset().union(*(self.origin(tensor) for tensor in read))
        for tensor in tensors_of(result):
            if origin and _key(tensor) not in self.parameters:
                self._set([tensor], origin | self.origin(tensor))
        return result


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
