"""Which residual blocks of a network become chains, and why the others stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ...errors import SurgeryError, UsageError
from ..blocks import BlockSite, find_blocks
from ..graph import Reader, calls_of
from ..inputs import Inputs
from ..macs import meta_copy
from ..plan import Skip
from ..selection import Where, select_blocks
from ..sites import held_elsewhere, outside_the_tree
from .operators import UnreadableError
from .ranges import find_ranges
from .reading import BlockReader, Residual, is_addition
from .writing import chain_at


@dataclass(frozen=True)
class FoundBlock:
    """A residual block that can become a chain."""

    paths: tuple[str, ...]
    place: str
    residual: Residual

    @property
    def path(self) -> str:
        """The first path, the name used in reports."""
        return self.paths[0]


@dataclass(frozen=True)
class Found:
    """The selected blocks that can become chains, the others, and the number of additions that stay."""

    blocks: tuple[FoundBlock, ...]
    skipped: tuple[Skip, ...]
    remaining: int


def find_residuals(model: nn.Module, example: Inputs, where: Where, described: str) -> Found:
    """Read the selected residual blocks of a model.

    Raises:
        UsageError: there are none, or `where` matches none of them.
        SurgeryError: none of the selected blocks can become a chain.
        FusionError: `torch.export` cannot read the model.
    """
    found = find_blocks(model, example)
    reader = Reader(model, example)
    blocks = BlockReader(reader, find_ranges(reader.program.graph))
    chosen = _choose(found, blocks, where, described)
    shapes = meta_copy(model)
    held = held_elsewhere(model)
    readable: list[FoundBlock] = []
    skipped: list[Skip] = []
    for site in chosen:
        try:
            _refuse(site, reader, held)
            block = FoundBlock(site.paths, site.place.describe(), blocks.read(site.path))
            chain_at(shapes, block.path, block.residual)
            readable.append(block)
        except UnreadableError as reason:
            skipped.append(Skip(site.path, str(reason)))
    if not readable:
        reasons = "; ".join(f"{skip.path}: {skip.reason}" for skip in skipped[:3])
        raise SurgeryError(f"none of the {len(chosen)} selected residual blocks can become a chain: {reasons}")
    remaining = sum(map(is_addition, reader.program.graph.nodes)) - len(readable)
    return Found(tuple(readable), tuple(skipped), remaining)


def _choose(found: Sequence[BlockSite], blocks: BlockReader, where: Where, described: str) -> list[BlockSite]:
    """The selected blocks that add two maps. (Others of their class may only change the shape.)"""
    adding = [site for site in found if blocks.additions(site.path)]
    if not adding:
        count = sum(map(is_addition, blocks.reader.program.graph.nodes))
        elsewhere = f"; it forms {count} such sums elsewhere: move each into a module of its own" if count else ""
        raise UsageError(
            f"the model has no residual blocks: no module with convolutions adds two feature maps{elsewhere}"
        )
    chosen = [site for site in select_blocks(found, where) if any(site is other for other in adding)]
    if not chosen:
        few = ", ".join(site.path for site in adding[:4]) + (", ..." if len(adding) > 4 else "")
        raise UsageError(
            f"where={described!r} matches none of the model's {len(adding)} residual blocks: {few}; choose among them"
        )
    return chosen


def _refuse(site: BlockSite, reader: Reader, held: dict[int, str]) -> None:
    """Raise if the module may not be exchanged, whatever it computes."""
    calls = len(calls_of(reader, site.path))
    if calls != 1:
        raise UnreadableError(f"it is called {calls} times, with inputs of different kinds perhaps")
    if id(site.module) in held:
        raise UnreadableError(outside_the_tree(held[id(site.module)]))
    for name, module in site.module.named_modules():
        if name and (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks):
            raise UnreadableError(f"{name} inside of it carries a hook, which would be lost; remove the hook first")
