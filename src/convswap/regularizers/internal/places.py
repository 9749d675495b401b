"""Where a network has residual branches, stages and poolings, for the methods that act inside of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from ...errors import UsageError
from ...surgery.blocks import find_blocks
from ...surgery.inputs import Inputs
from ...surgery.selection import select_modules
from ...surgery.sites import Site, refuse_lazy, refuse_wrappers, sites
from ..contract import Setting
from .built_in import say_built_in
from .tape import Call, Node, Tape


@dataclass(frozen=True)
class Branch:
    """One side of the sum that a residual block computes.

    Attributes:
        path: of the module that returns it.
        module: that module: a hook on what it returns changes the branch.
        layers: the calls of convolutions and units in the branch, in their order, without those of gates.
    """

    path: str
    module: nn.Module
    layers: tuple[Call, ...]


@dataclass(frozen=True)
class Residual:
    """A residual block: `shortcut + sum(branches)`.

    Attributes:
        path: of the block.
        module: the block.
        branches: the terms with most convolutions, one for the usual block.
        shortcut: the module that returns the shortcut, None where the block's own code passes its input on.
        identity: whether the shortcut is the block's input itself.
    """

    path: str
    module: nn.Module
    branches: tuple[Branch, ...]
    shortcut: Branch | None
    identity: bool


@dataclass(frozen=True)
class Stage:
    """The layers between two changes of the map's size.

    Attributes:
        path: of the module that returns the stage's last map.
        module: that module.
        first, last: the part of the tape, values from `first` to `last`.
    """

    path: str
    module: nn.Module
    first: int
    last: int


class Places:
    """The places of one network, read from one pass over a black image.

    Args:
        model: the network, which is left as it was.
        setting: of the training: tells channels, image size and device.
        method: the name of the method, for messages.

    Raises:
        SurgeryError: the network does not accept such images, or is wrapped already.
    """

    def __init__(self, model: nn.Module, setting: Setting, method: str) -> None:
        refuse_wrappers(model)
        refuse_lazy(model)
        say_built_in(model)
        self.model, self.method = model, method
        parameter = next(model.parameters())
        image = torch.zeros(1, setting.channels, *setting.image_size, device=parameter.device, dtype=parameter.dtype)
        self.inputs = Inputs((image,), {})
        self.tape = Tape(model, self.inputs)
        self.sites = {id(site.module): site for site in sites(model)}
        self.skipped: dict[str, str] = {}

    def refuse(self, lacks: str, instead: str) -> UsageError:
        """The error for a network without a place for the method."""
        return UsageError(f"regularizer {self.method!r}: this {type(self.model).__name__} {lacks}; {instead}")

    def select(self, where: str) -> set[str]:
        """The paths of the convolutions and units that a selection of wildcards means.

        Raises:
            UsageError: it is not well-formed, or means none of them.
        """
        return self._selected([Site((call.path,), call.module) for call in self.layers], where, "convolutions")

    def _selected(self, found: Sequence[Site], where: str, kind: str) -> set[str]:
        chosen = {site.path for site in select_modules(found, where)}
        if not chosen:
            few = ", ".join(site.path for site in found[:4])
            raise UsageError(f"regularizer {self.method!r}: where={where!r} matches none of its {kind}: {few}, ...")
        return chosen

    def chosen_stages(self, where: str) -> list[Stage]:
        """The stages, or those that a selection of wildcards means.

        Raises:
            UsageError: there are none.
        """
        if not self.stages:
            raise self.refuse("has no stage of two convolutions that ends in a module", "dropout needs none")
        found = [Site((stage.path,), stage.module) for stage in self.stages]
        chosen = self._selected(found, where or "all", "stages")
        return [stage for stage in self.stages if stage.path in chosen]

    @cached_property
    def layers(self) -> list[Call]:
        """The calls of convolutions, units and linear layers, in their order."""
        return [call for call in self.tape.calls if id(call.module) in self.sites or isinstance(call.module, nn.Linear)]

    def owner(self, path: str) -> nn.Module:
        """The module around the one at a path."""
        return self.model.get_submodule(path.rpartition(".")[0])

    def hookable(self, node: Node, inside: nn.Module | None = None) -> Call | None:
        """The outermost call that returned this value, of a module called once, within another module."""
        calls = [] if inside is None else self.tape.calls_of(inside)
        depth = calls[0].depth if calls else -1
        for call in reversed(node.returned_by):
            around = inside is None or id(inside) in self._around(call)
            if call.path and call.depth > depth and around and len(self.tape.calls_of(call.module)) == 1:
                return call
        return None

    def _around(self, call: Call) -> set[int]:
        names = call.path.split(".")
        return {id(self.model.get_submodule(".".join(names[:end]))) for end in range(len(names))}

    @cached_property
    def residuals(self) -> list[Residual]:
        """The residual blocks whose branches end in a module, in their order. `skipped` says why others are not."""
        found = []
        for site in find_blocks(self.model, self.inputs):
            calls = self.tape.calls_of(site.module)
            if len(calls) != 1:
                self.skipped[site.path] = f"the network calls it {len(calls)} times"
                continue
            block = self._residual(site.path, calls[0])
            if isinstance(block, Residual):
                found.append(block)
            elif block:
                self.skipped[site.path] = block
        return found

    def _residual(self, path: str, call: Call) -> Residual | str:
        """The block of one call, or why it is none ("" for a block that only changes the shape)."""
        tape = self.tape
        inside = {node.index for node in tape.inside(call.module)}
        end = call.returned
        while end in inside and not tape.nodes[end].is_sum and len(set(tape.nodes[end].sources)) == 1:
            end = tape.nodes[end].sources[0]
        if end is None or end not in inside or not tape.nodes[end].is_sum:
            return ""
        terms = self._terms(end, inside)
        layers = [self._layers_before(term, call) for term in terms]
        most, least = max(map(len, layers)), min(map(len, layers))
        if most == least:
            return "its branches hold equally many convolutions, so none of them is the shortcut"
        shortcut = min(range(len(terms)), key=lambda index: len(layers[index]))
        branches = []
        for index, (term, own) in enumerate(zip(terms, layers, strict=True)):
            if index == shortcut:
                continue
            ending = self._ending(term, inside, call.module)
            if isinstance(ending, str):
                return ending
            branches.append(Branch(ending.path, ending.module, tuple(own)))
        return Residual(
            path,
            call.module,
            tuple(branches),
            self._shortcut(terms[shortcut], inside, call.module, layers[shortcut]),
            terms[shortcut] == call.entered,
        )

    def _terms(self, index: int, inside: set[int]) -> list[int]:
        """The terms of a sum, looking through inner sums that nothing else reads."""
        found = []
        for source in self.tape.nodes[index].sources:
            node = self.tape.nodes[source]
            inner = node.is_sum and source in inside and len(self.tape.readers(node)) == 1
            found += self._terms(source, inside) if inner else [source]
        return found

    def _layers_before(self, term: int, block: Call) -> list[Call]:
        """The layers between a block's input and one term of its sum. Those on single pixels belong to gates."""
        nodes = self.tape.nodes
        before = self.tape.ancestors(term, block.entered)
        size = nodes[term].shape[2:]
        found = []
        for call in self.layers:
            if call.returned in before and id(call.module) in self.sites and id(block.module) in self._around(call):
                shape = nodes[call.returned].shape
                if len(shape) == 4 and (shape[2:] != (1, 1) or size == (1, 1)):
                    found.append(call)
        return found

    def _ending(self, term: int, inside: set[int], block: nn.Module) -> Call | str:
        """The module that returns a branch, or why no hook can change the branch alone."""
        node = self.tape.nodes[term]
        if term not in inside:
            return "one of its branches is computed outside of it"
        call = self.hookable(node, block)
        if call is None:
            return f"its branch ends in {node.operator}, outside of any module that is called once"
        if len(self.tape.readers(node)) != 1:
            return f"something else also reads what its branch ends in, {call.path}"
        return call

    def _shortcut(self, term: int, inside: set[int], block: nn.Module, layers: Sequence[Call]) -> Branch | None:
        call = self.hookable(self.tape.nodes[term], block)
        return None if call is None else Branch(call.path, call.module, tuple(layers))

    @cached_property
    def stages(self) -> list[Stage]:
        """The stages that hold two convolutions at least and maps of more than one pixel, in their order."""
        groups: list[list[Node]] = []
        for node in self.tape.narrows():
            if len(node.shape) == 4 and node.shape[2:] != (1, 1):
                if groups and groups[-1][-1].shape[2:] == node.shape[2:]:
                    groups[-1].append(node)
                else:
                    groups.append([node])
        found, first = [], 0
        for group in groups:
            ends = [(node, call) for node in group if (call := self.hookable(node)) is not None]
            if not ends:
                continue
            outer = min(call.depth for _, call in ends)  # the next stage may begin with layers of this map size
            last, call = next(end for end in reversed(ends) if end[1].depth == outer)
            call = self._block_before(last, call)
            inner = [each for each in self.layers if each.returned is not None and first <= each.returned <= last.index]
            if sum(self.tape.nodes[each.returned].shape[2:] == last.shape[2:] for each in inner) > 1:  # type: ignore[index]
                found.append(Stage(call.path, call.module, first, last.index))
            first = last.index + 1
        return found

    def _block_before(self, node: Node, call: Call) -> Call:
        """The module to hook: not a Sequential, whose layers gradient checkpointing calls one by one."""
        for each in reversed(node.returned_by):
            once = len(self.tape.calls_of(each.module)) == 1
            if once and each.depth >= call.depth and not isinstance(each.module, nn.Sequential):
                return each
        return call

    @cached_property
    def classifier(self) -> Call:
        """The last layer, which makes the logits."""
        if not self.layers:
            raise self.refuse("calls no convolution and no linear layer", "give a convolutional network")
        return self.layers[-1]

    @property
    def last_convolution(self) -> list[Call]:
        """The last convolution or unit that reads a map of more than one pixel.

        Raises:
            UsageError: there is none.
        """
        nodes = self.tape.nodes
        for call in reversed(self.layers):
            shape = () if call.entered is None else nodes[call.entered].shape
            if id(call.module) in self.sites and len(shape) == 4 and shape[2:] != (1, 1):
                return [call]
        raise self.refuse("has no convolution that reads a map of more than one pixel", "dropout needs none")

    @property
    def blocks(self) -> list[Residual]:
        """The residual blocks of one branch and one shortcut.

        Raises:
            UsageError: there are none.
        """
        found = [block for block in self.residuals if len(block.branches) == 1]
        if not found:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in list(self.skipped.items())[:2])
            raise self.refuse(
                "has no residual block whose branch a hook can reach" + (f" ({reasons})" if reasons else ""),
                "drop_block, max_dropout and dropout need none",
            )
        return found
