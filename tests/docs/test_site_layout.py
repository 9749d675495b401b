"""Boxes of a data flow find places whatever the graph."""

from __future__ import annotations

import itertools

import pytest
from convswap_site.layout import Cell, crossings, gap, place
from hypothesis import given, settings
from hypothesis import strategies as st


@st.composite
def graphs(draw: st.DrawFn) -> list[list[int]]:
    size = draw(st.integers(1, 14))
    return [sorted(draw(st.sets(st.integers(0, i - 1), max_size=3))) if i else [] for i in range(size)]


@settings(deadline=None, max_examples=60)
@given(graphs())
def test_every_edge_leads_down_row_by_row(edges: list[list[int]]) -> None:
    rows = place(edges)
    cells = {cell.index: cell for row in rows for cell in row if cell.index is not None}
    assert sorted(cells) == list(range(len(edges)))
    for number, row in enumerate(rows):
        assert all(cell.row == number for cell in row)
        for left, right in itertools.pairwise(row):
            assert right.x - left.x >= gap(left, right) - 1e-9
    assert min(cell.x for row in rows for cell in row) == 0
    for index, read in enumerate(edges):
        assert sources(cells[index]) == set(read)


def sources(cell: Cell) -> set[int]:
    """The nodes a cell's edges come from, followed upwards past the rows they pass."""
    found: set[int] = set()
    for above in cell.above:
        assert above.row == cell.row - 1
        assert cell in above.below
        found |= {above.index} if above.index is not None else sources(above)
    return found


def test_a_chain_with_a_shortcut_hangs_straight_and_crosses_nothing() -> None:
    rows = place([[], [0], [1], [2], [3, 0]])
    places = {cell.index: cell.x for row in rows for cell in row if cell.index is not None}
    assert max(places.values()) - min(places.values()) < 1e-4
    assert crossings(rows) == 0


def test_branches_are_sorted_so_that_they_do_not_cross() -> None:
    assert crossings(place([[], [0], [0], [2], [1], [4, 3]])) == 0


def test_a_node_cannot_read_a_later_one() -> None:
    with pytest.raises(ValueError, match="node 1 reads"):
        place([[], [1]])
