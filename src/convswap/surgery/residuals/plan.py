"""What the removal of a network's residual connections does and costs, as data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..plan import Skip, text_table

WHY = (
    "why: without additions every channel can be pruned by itself, and a compiler gets a plain chain; "
    "unpruned, the chain is the dearer network"
)


@dataclass(frozen=True)
class RemovedBlock:
    """One residual block and the chain that would stand in its place.

    Attributes:
        path: its first module path. `other_paths` are further references to the same object.
        place: channels and stride of the block, as text.
        layers: the convolutions of the chain, as text.
        parameters_before, parameters_after: numbers of parameters.
        macs_before, macs_after: multiply-accumulates per image.
    """

    path: str
    other_paths: tuple[str, ...]
    place: str
    layers: tuple[str, ...]
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int


@dataclass(frozen=True)
class RemovalReport:
    """The data of a plan, without the model.

    Attributes:
        where: the selection.
        blocks: the blocks that become chains.
        skipped: selected blocks that stay, with the reason.
        merged: pairs of convolutions that are multiplied together: the product stands at the first path.
        remaining: number of additions of two feature maps that stay.
        parameters_before, parameters_after, macs_before, macs_after: of the whole network; a convolution that lies in
            no block may be part of a product, so these are not the sums of the rows.
        notes: what else a reader should know.
    """

    where: str
    blocks: tuple[RemovedBlock, ...]
    skipped: tuple[Skip, ...]
    merged: tuple[tuple[str, str], ...]
    remaining: int
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The report as plain lists and dictionaries."""
        return asdict(self)

    def to_json(self) -> str:
        """The report as JSON."""
        return json.dumps(self.as_dict(), indent=2)

    def __str__(self) -> str:
        rows = [[b.path, b.place, _few(b.layers), *_numbers(b)] for b in self.blocks]
        rows.append(["the network", "", f"{len(self.blocks)} blocks as chains", *_numbers(self)])
        header = ["block", "was", "becomes", "parameters", "after", "MACs", "after"]
        lines = [
            f"remove residual connections where {self.where}",
            text_table(header, rows, right=(3, 4, 5, 6)),
            f"cost: {_short(self.macs_before)} -> {_short(self.macs_after)} multiply-accumulates an image, "
            f"{_short(self.parameters_before)} -> {_short(self.parameters_after)} parameters",
            WHY,
        ]
        if self.merged:
            lines.append(f"multiplied together: {len(self.merged)} pairs of consecutive convolutions")
        if self.skipped:
            lines += [f"left as they are: {len(self.skipped)}", *(f"  {s.path}: {s.reason}" for s in self.skipped)]
        lines += [f"note: {note}" for note in self.notes]
        if self.remaining:
            lines.append(f"note: {self.remaining} additions of feature maps remain")
        return "\n".join(lines)


def _numbers(row: RemovedBlock | RemovalReport) -> Sequence[str]:
    values = (row.parameters_before, row.parameters_after, row.macs_before, row.macs_after)
    return [f"{value:,}" for value in values]


def _few(layers: Sequence[str]) -> str:
    """The convolutions of a chain; of many, the first and the last."""
    return " ".join(layers) if len(layers) < 5 else f"{layers[0]} ... {layers[-1]} ({len(layers)} convolutions)"


def _short(value: int) -> str:
    """Three digits and a prefix: `3.21 G`."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return str(value)
