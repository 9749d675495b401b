"""MACs and parameters of a narrow network, worked out from the wide one's without building it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..inputs import Inputs
from ..macs import count_macs
from ..modes import evaluating
from .groups import ChannelGroup
from .proof import channels_of


@dataclass
class _Layer:
    """A layer's cost: `each` per pair of an input and an output channel, and parameters per output channel."""

    inputs: int
    outputs: int
    both: bool
    macs_each: float
    parameters_each: float
    parameters_per_output: int

    def macs(self, gone: tuple[int, int]) -> float:
        return self.macs_each * self._pairs(gone)

    def parameters(self, gone: tuple[int, int]) -> float:
        return self.parameters_each * self._pairs(gone) + self.parameters_per_output * (self.outputs - gone[1])

    def _pairs(self, gone: tuple[int, int]) -> int:
        outputs = self.outputs - gone[1]
        return outputs if self.both else outputs * (self.inputs - gone[0])


class CostModel:
    """MACs and parameters as a function of how many elements each group has lost.

    Attributes:
        neighbours: for each group, the groups (itself too) that change a layer with it: their savings depend on it.
    """

    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup], example: Inputs) -> None:
        self.groups = groups
        positions = _positions(model, example)
        paths = dict.fromkeys(member.path for group in groups for member in group.members)
        self.layers = {path: _layer(model.get_submodule(path), positions.get(path, 0)) for path in paths}
        owners = {path: {i for i, g in enumerate(groups) if any(m.path == path for m in g.members)} for path in paths}
        self.neighbours = [set().union(*(owners[member.path] for member in group.members)) for group in groups]
        none = [0] * len(groups)
        self.macs = self.parameters = 0.0
        self.macs = count_macs(model, example) - self.sum_of("macs", none)
        self.parameters = sum(p.numel() for p in model.parameters()) - self.sum_of("parameters", none)

    def sum_of(self, what: str, lost: Sequence[int]) -> float:
        """The network's `"macs"` (per image) or `"parameters"`."""
        gone = self._gone(range(len(self.groups)), lost)
        return getattr(self, what) + sum(getattr(layer, what)(gone[path]) for path, layer in self.layers.items())

    def saving(self, what: str, index: int, lost: Sequence[int], count: int) -> float:
        """What a group saves by losing `count` more elements."""
        paths = {member.path for member in self.groups[index].members}
        before = self._gone(sorted(self.neighbours[index]), lost, paths)
        after = dict(before)
        for member in self.groups[index].members:
            after[member.path] = _more(after[member.path], member.side, count * member.width)
        return sum(
            getattr(self.layers[path], what)(before[path]) - getattr(self.layers[path], what)(after[path])
            for path in paths
        )

    def _gone(
        self, indices: Sequence[int], lost: Sequence[int], paths: set[str] | None = None
    ) -> dict[str, tuple[int, int]]:
        gone = dict.fromkeys(self.layers if paths is None else paths, (0, 0))
        for index in indices:
            if lost[index]:
                for member in self.groups[index].members:
                    if member.path in gone:
                        gone[member.path] = _more(gone[member.path], member.side, lost[index] * member.width)
        return gone


def _more(gone: tuple[int, int], side: str, count: int) -> tuple[int, int]:
    return gone[0] + (count if side != "out" else 0), gone[1] + (count if side != "in" else 0)


def _layer(module: Any, positions: float) -> _Layer:
    inputs, outputs = channels_of(module, "in"), channels_of(module, "out")
    if isinstance(module, nn.Conv2d):
        kernel = module.weight.shape[2:].numel()
        both = 1 < module.groups == inputs == outputs
        each = kernel if both else kernel / module.groups
        return _Layer(inputs, outputs, both, positions * each, each, int(module.bias is not None))
    if isinstance(module, nn.Linear):
        return _Layer(inputs, outputs, False, positions, 1, int(module.bias is not None))
    vectors = 0
    if isinstance(module, _BatchNorm | nn.PReLU):
        vectors = sum(parameter.numel() == outputs for parameter in module.parameters(recurse=False))
    return _Layer(inputs, outputs, True, 0, 0, vectors)


def _positions(model: nn.Module, example: Inputs) -> Mapping[str, float]:
    """At how many places per image each convolution and linear layer is applied, over all its calls."""
    seen: dict[str, float] = {}

    def watch(path: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
            channels = channels_of(module, "out")
            seen[path] = seen.get(path, 0) + output.numel() / channels / example.images

        return hook

    layers = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [module.register_forward_hook(watch(path)) for path, module in layers]
    try:
        with evaluating(model), torch.no_grad():
            example.call(model)
    finally:
        for handle in handles:
            handle.remove()
    return seen
