"""Places for the boxes of a data flow: rows from top to bottom, few crossings, and a way for edges past boxes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

_SWEEPS = 12


@dataclass(eq=False)
class Cell:
    """A place in a row: that of node `index`, or (None) where an edge passes.

    Attributes:
        index: of the node.
        row: counted from the top.
        x: of its middle, in columns; the leftmost of all cells is at 0.
        above, below: cells of the neighbouring rows that edges come from and go to.
    """

    index: int | None
    row: int
    x: float = 0.0
    above: list[Cell] = field(default_factory=list)
    below: list[Cell] = field(default_factory=list)


def place(edges: Sequence[Sequence[int]]) -> list[list[Cell]]:
    """Rows of cells for a graph whose node i reads the earlier nodes `edges[i]`.

    Raises:
        ValueError: a node reads itself or a later one.
    """
    cells: list[Cell] = []
    for index, read in enumerate(edges):
        if any(previous >= index for previous in read):
            raise ValueError(f"node {index} reads {list(read)}: only earlier nodes can be read")
        cells.append(Cell(index, max((cells[previous].row + 1 for previous in read), default=0)))
    rows: list[list[Cell]] = [[] for _ in range(max(cell.row for cell in cells) + 1)]
    for cell in cells:
        rows[cell.row].append(cell)
    for cell, read in zip(cells, edges, strict=True):
        for previous in read:
            _join(cells[previous], cell, rows)
    _order(rows)
    _align(rows)
    return rows


def _join(start: Cell, end: Cell, rows: list[list[Cell]]) -> None:
    """An edge as a chain of cells, one in every row; edges that leave one box share their way as far as it goes."""
    while start.row + 1 < end.row:
        passing = next((cell for cell in start.below if cell.index is None), None)
        if passing is None:
            passing = Cell(None, start.row + 1, above=[start])
            start.below.append(passing)
            rows[passing.row].append(passing)
        start = passing
    start.below.append(end)
    end.above.append(start)


def _order(rows: list[list[Cell]]) -> None:
    """Sort every row by the mean place of what its cells are tied to, from above and from below in turns."""
    best, fewest = [list(row) for row in rows], crossings(rows)
    for sweep in range(_SWEEPS):
        downwards = sweep % 2 == 0
        for row in rows if downwards else reversed(rows):
            for other in rows:
                for x, cell in enumerate(other):
                    cell.x = x - (len(other) - 1) / 2
            row.sort(key=lambda cell: _mean(cell.above if downwards else cell.below, cell.x))
        if crossings(rows) < fewest:
            best, fewest = [list(row) for row in rows], crossings(rows)
    rows[:] = best


def crossings(rows: list[list[Cell]]) -> int:
    """How many pairs of edges cross."""
    total = 0
    for upper, lower in itertools.pairwise(rows):
        order = {id(cell): x for x, cell in enumerate(lower)}
        ends = [order[id(cell)] for start in upper for cell in sorted(start.below, key=lambda c: order[id(c)])]
        total += sum(a > b for i, a in enumerate(ends) for b in ends[i + 1 :])
    return total


def _align(rows: list[list[Cell]]) -> None:
    """Move cells straight under what they read, and above what reads them, as far as their neighbours leave room."""
    for row in rows:
        for x, cell in enumerate(row):
            cell.x = x - (len(row) - 1) / 2
    for sweep in range(_SWEEPS + 1):
        downwards = sweep % 2 == 0  # the last one too: a chain then hangs straight down from its start
        for row in rows if downwards else reversed(rows):
            _spread(row, [_mean(_ties(cell, downwards), cell.x) for cell in row])
    left = min(cell.x for row in rows for cell in row)
    for row in rows:
        for cell in row:
            cell.x -= left


def _ties(cell: Cell, downwards: bool) -> list[Cell]:
    """The neighbours a cell should be in line with: boxes with boxes, and an edge with itself."""
    ties = cell.above if downwards else cell.below
    alike = [other for other in ties if (other.index is None) == (cell.index is None)]
    return alike or ties


def _spread(row: list[Cell], wanted: list[float]) -> None:
    """The places nearest to the wanted ones that keep the gaps (weighted least squares); edges give way to boxes."""
    offsets = [0.0]
    for left, right in itertools.pairwise(row):
        offsets.append(offsets[-1] + gap(left, right))
    # Without the gaps the places only have to ascend: neighbours that do not are pooled at their mean.
    pools: list[tuple[float, float, int]] = []
    for cell, x, offset in zip(row, wanted, offsets, strict=True):
        place, weight, count = x - offset, 1.0 if cell.index is None else 1e6, 1
        while pools and pools[-1][0] >= place:
            other, heavy, many = pools.pop()
            place, weight, count = (place * weight + other * heavy) / (weight + heavy), weight + heavy, count + many
        pools.append((place, weight, count))
    ascending = [place for place, _, count in pools for _ in range(count)]
    for cell, place, offset in zip(row, ascending, offsets, strict=True):
        cell.x = place + offset


def gap(left: Cell, right: Cell) -> float:
    """The least distance of two neighbours, in columns: passing edges need less room than boxes."""
    return 0.5 * sum(1.0 if cell.index is not None else 0.35 for cell in (left, right))


def _mean(cells: list[Cell], otherwise: float) -> float:
    return sum(cell.x for cell in cells) / len(cells) if cells else otherwise
