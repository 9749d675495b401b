"""Channels that can only go together: what torch-pruning's dependency graph says of a network, as plain data.

torch-pruning (Fang et al., arXiv:2301.12900) follows the network from one layer's output channels to everything that
must lose them too: batch norms, depthwise convolutions, the layers that read them, the layers tied by a sum.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ...errors import SurgeryError, UsageError, first_line
from ...hooks import Hooks, writes
from ...packages import find_optional
from ..compare import named_outputs
from ..inputs import Inputs
from ..plan import Skip
from .narrow import why_not_narrow

Side = Literal["in", "out", "both"]


@dataclass(frozen=True)
class Member:
    """One side of a layer that loses channels with a group.

    Attributes:
        path: the module.
        side: `"out"` (the layer makes these channels), `"in"` (it reads them) or `"both"` (batch norm, depthwise).
        places: for each element of the group, the module's own channels that go with it.
    """

    path: str
    side: Side
    places: tuple[tuple[int, ...], ...]

    @property
    def width(self) -> int:
        """How many of the module's channels one element takes with it."""
        return len(self.places[0])


@dataclass(frozen=True)
class ChannelGroup:
    """Elements (single channels, or channels that a grouped convolution ties) that can be removed one by one.

    Attributes:
        members: everything that loses channels, the first maker first.
        graph: torch-pruning's own group, which its importances read.
        roots: for each element, its channels of the first maker.
    """

    members: tuple[Member, ...]
    graph: Any
    roots: tuple[tuple[int, ...], ...]

    @property
    def path(self) -> str:
        """The first layer that makes these channels: the name of the group."""
        return self.members[0].path

    @property
    def size(self) -> int:
        """How many elements there are."""
        return len(self.roots)

    @property
    def makers(self) -> list[str]:
        """The layers that make these channels, besides batch norms."""
        return [member.path for member in self.members if member.side == "out"]

    @property
    def readers(self) -> list[Member]:
        """The layers that read these channels."""
        return [member for member in self.members if member.side == "in"]


def load_torch_pruning() -> Any:
    """The package.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import torch_pruning
    except ImportError as error:
        package = find_optional("torch_pruning")
        how = package.how_to_install if package is not None else ""
        raise UsageError(f"pruning needs the package torch-pruning; install it with {how}") from error
    return torch_pruning


def find_groups(model: nn.Module, example: Inputs) -> tuple[list[ChannelGroup], list[Skip]]:
    """The groups of a model, and the layers whose channels must stay, with the reason.

    Args:
        model: in eval mode, with parameters that require gradients. torch-pruning traces it by autograd.
        example: inputs of the model.

    Raises:
        SurgeryError: torch-pruning cannot follow the model.
    """
    graph = _trace(model, example)
    names = {id(module): path for path, module in model.named_modules()}
    groups: list[ChannelGroup] = []
    skipped: list[Skip] = []
    taken: set[tuple[str, str, int]] = set()
    for found in graph.get_all_groups():
        path = names[id(found[0].dep.target.module)]
        try:
            group = _read(graph, found, names)
            reason = why_not_group(model, group) or _why_taken(group, taken)
        except _LeftAloneError as left:
            reason = str(left)
        if reason is None:
            groups.append(group)
            taken |= _claims(group)
        else:
            skipped.append(Skip(path, reason))
    return groups, skipped


class _LeftAloneError(Exception):
    """Why the channels of a group stay."""


def _trace(model: nn.Module, example: Inputs) -> Any:
    tp = load_torch_pruning()
    graph = tp.DependencyGraph()
    own = {type(module) for module in model.modules() if writes(module, Hooks.narrow)}
    pruner = _own_pruner(tp)
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on parameters outside layers: such groups are left alone by name
            graph.build_dependency(
                model,
                example_inputs=example,
                forward_fn=lambda network, inputs: inputs.call(network),
                output_transform=lambda output: [t for t in named_outputs(output).values() if t.requires_grad],
                customized_pruners={kind: pruner for kind in own if not issubclass(kind, nn.Conv2d)},
                verbose=False,
            )
    except Exception as error:
        raise SurgeryError(f"torch-pruning cannot follow this {type(model).__name__}: {first_line(error)}") from error
    return graph


def _own_pruner(tp: Any) -> Any:
    """What torch-pruning must know of modules that narrow themselves: inputs and outputs go independently."""

    class OwnPruner(tp.BasePruningFunc):
        def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
            raise NotImplementedError("groups are read, and the modules narrowed by convswap")

        def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
            raise NotImplementedError("groups are read, and the modules narrowed by convswap")

        def get_out_channels(self, layer: Any) -> int:
            return int(layer.out_channels)

        def get_in_channels(self, layer: Any) -> int:
            return int(layer.in_channels)

    return OwnPruner()


def _read(graph: Any, found: Any, names: dict[int, str]) -> ChannelGroup:
    count = len(found[0].idxs)
    raw: list[tuple[str, Side, list[tuple[int, ...]], nn.Module]] = []
    for item in found:
        node = item.dep.target
        module = node.module
        if isinstance(module, nn.Parameter):
            raise _LeftAloneError(f"they also index {graph._param_to_name.get(module, 'a parameter')}, outside a layer")
        pruner = graph.get_pruner_of_module(module)
        both = pruner.prune_in_channels == pruner.prune_out_channels
        reads = not both and item.dep.handler == pruner.prune_in_channels
        if not reads and not node.outputs:
            raise _LeftAloneError("they are the model's output")
        if id(module) not in names:
            continue  # an operation without a module, such as a sum
        places: list[list[int]] = [[] for _ in range(count)]
        for local, root in zip(item.idxs, item.root_idxs, strict=True):
            places[root].append(local)
        side: Side = "both" if both else "in" if reads else "out"
        if isinstance(module, nn.Module) and graph.get_out_channels(node) is not None:
            raw.append((names[id(module)], side, [tuple(sorted(each)) for each in places], module))
    elements = _elements(count, raw)
    members = []
    for path, side, places_of_roots, _ in raw:
        merged = tuple(tuple(sorted(c for root in element for c in places_of_roots[root])) for element in elements)
        members.append(Member(path, side, merged))
    return ChannelGroup(tuple(members), found, tuple(map(tuple, elements)))


def _elements(count: int, raw: Iterable[tuple[str, Side, list[tuple[int, ...]], nn.Module]]) -> list[list[int]]:
    """Join the channels at the same position of every group of a grouped convolution: its groups stay equally wide."""
    parent = list(range(count))

    def find(a: int) -> int:
        while parent[a] != a:
            a = parent[a]
        return a

    for _, side, places, module in raw:
        if not isinstance(module, nn.Conv2d) or side == "both" or module.groups == 1:
            continue
        each = (module.in_channels if side == "in" else module.out_channels) // module.groups
        first: dict[int, int] = {}
        for root, channels in enumerate(places):
            for channel in channels:
                parent[find(root)] = find(first.setdefault(channel % each, root))
    joined: dict[int, list[int]] = {}
    for root in range(count):
        joined.setdefault(find(root), []).append(root)
    return list(joined.values())


def why_not_group(model: nn.Module, group: ChannelGroup) -> str | None:
    """Why the channels of a group must stay, or None."""
    for member in group.members:
        reason = why_not_narrow(model.get_submodule(member.path))
        if reason is not None:
            return f"{member.path} {reason}"
        if len({len(each) for each in member.places}) > 1 or member.width == 0:
            return f"{member.path} holds uneven numbers of their copies"
    if group.size < 2:
        return "they only go all together"
    if not group.readers:
        return "no layer reads them"
    return None


def _claims(group: ChannelGroup) -> set[tuple[str, str, int]]:
    sides = {"in": ("in",), "out": ("out",), "both": ("in", "out")}
    return {
        (member.path, side, channel)
        for member in group.members
        for side in sides[member.side]
        for channels in member.places
        for channel in channels
    }


def _why_taken(group: ChannelGroup, taken: set[tuple[str, str, int]]) -> str | None:
    double = sorted(_claims(group) & taken)
    return f"some are channels of another group too ({double[0][0]})" if double else None
