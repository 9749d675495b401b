"""Tensors are found and exchanged in any structure."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convswap.surgery.tree import map_tensors, tensors_in, tensors_of

Point = namedtuple("Point", "x y")


@dataclass(frozen=True)
class Frozen:
    value: object


class Slotted:
    __slots__ = ("__hidden", "value")

    def __init__(self, value: object) -> None:
        self.value, self.__hidden = value, value


leaves = st.one_of(st.none(), st.integers(), st.text(), st.just("tensor"))
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.builds(Point, inner, inner),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.dictionaries(st.text(max_size=3), inner, max_size=3).map(OrderedDict),
        st.builds(Frozen, inner),
        st.builds(Slotted, inner),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(values)
def test_every_tensor_is_found_and_exchanged_and_the_rest_is_kept(value: object) -> None:
    count = 0

    def fill(inner: object) -> object:
        nonlocal count
        if inner == "tensor":
            count += 1
            return torch.tensor(float(count))
        if isinstance(inner, Point):
            return Point(*map(fill, inner))
        if isinstance(inner, Frozen):
            return Frozen(fill(inner.value))
        if isinstance(inner, Slotted):
            return Slotted(fill(inner.value))
        if isinstance(inner, dict):
            return type(inner)((key, fill(each)) for key, each in inner.items())
        return type(inner)(map(fill, inner)) if isinstance(inner, list | tuple) else inner

    value = fill(value)
    found = dict(tensors_in(value))
    assert {int(t) for t in found.values()} == set(range(1, count + 1))
    negative = map_tensors(value, torch.neg)
    assert {path: -tensor for path, tensor in tensors_in(negative)} == found
    assert type(negative) is type(value)
    if not found:
        assert negative is value
    assert {int(t) for t in dict(tensors_in(value)).values()} == set(range(1, count + 1))


def test_paths_read_as_python() -> None:
    value = {"a": [Point(torch.ones(1), Frozen(torch.ones(2)))], 3: Slotted(torch.ones(3))}
    paths = ["['a'][0][0]", "['a'][0][1].value", "[3]._Slotted__hidden", "[3].value"]
    assert sorted(path for path, _ in tensors_in(value)) == sorted(paths)


def test_circles_modules_and_empty_tensors() -> None:
    circle: list[object] = [torch.ones(1), nn.Linear(2, 2), torch.ones]
    circle.append(circle)
    assert [path for path, _ in tensors_in(circle)] == ["[0]"]
    assert tensors_of([torch.ones(0), torch.ones(1)]) == [torch.ones(1)]
