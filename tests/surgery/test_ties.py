"""Detections are compared as sets where their scores tie, and in order elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from convswap.surgery.compare import largest_difference, named_outputs


class Instances:
    """Fields of detections in an object, boxes in another one."""

    def __init__(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> None:
        self.fields = {"pred_boxes": Boxes(boxes), "scores": scores, "pred_classes": labels}


class Boxes:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def listed(boxes: Tensor, scores: Tensor, labels: Tensor) -> Any:
    return [
        {"boxes": boxes, "scores": scores, "labels": labels, "masks": boxes[:, :1, None, None].expand(-1, 1, 20, 20)}
    ]


SCORES = torch.tensor([0.9, 0.5, 0.5, 0.5 - 1e-13, 0.3, 0.2, 0.2], dtype=torch.float64)


def rows(order: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    boxes = torch.rand(len(SCORES), 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return boxes[order], SCORES, torch.arange(len(SCORES))[order] % 3


@pytest.mark.parametrize("form", [listed, Instances])
def test_tied_rows_may_change_places(form: Any) -> None:
    expected = named_outputs(form(*rows([0, 1, 2, 3, 4, 5, 6])))
    assert largest_difference(expected, named_outputs(form(*rows([0, 3, 1, 2, 4, 6, 5]))))[0] < 1e-12


@pytest.mark.parametrize("form", [listed, Instances])
@pytest.mark.parametrize(
    "order", [[1, 0, 2, 3, 4, 5, 6], [0, 1, 2, 4, 3, 5, 6], [0, 1, 1, 3, 4, 5, 6], [0, 1, 2, 3, 4, 6, 6]]
)
def test_other_rows_may_not(form: Any, order: list[int]) -> None:
    expected = named_outputs(form(*rows([0, 1, 2, 3, 4, 5, 6])))
    difference, path = largest_difference(expected, named_outputs(form(*rows(order))))
    assert difference > 0.01
    assert "scores" not in path


@settings(deadline=None, max_examples=40)
@given(st.permutations(range(6)), st.integers(0, 5), st.floats(1e-6, 1.0))
def test_a_changed_row_is_found_whatever_the_order(order: list[int], row: int, change: float) -> None:
    boxes = torch.rand(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores, labels = torch.full((6,), 0.25, dtype=torch.float64), torch.arange(6)
    other = boxes[order].clone()
    expected = named_outputs(listed(boxes, scores, labels))
    assert largest_difference(expected, named_outputs(listed(other, scores, labels[order])))[0] == 0
    other[row, 0] += change
    assert largest_difference(expected, named_outputs(listed(other, scores, labels[order])))[0] >= 0.99e-6


def test_another_number_of_detections_is_another_output() -> None:
    boxes, scores, labels = rows([0, 1, 2, 3, 4, 5, 6])
    expected = named_outputs(listed(boxes, scores, labels))
    found = named_outputs(listed(boxes[:6], scores[:6], labels[:6]))
    assert largest_difference(expected, found) == (float("inf"), "[0]['boxes']")
    empty = named_outputs(listed(boxes[:0], scores[:0], labels[:0]))
    assert largest_difference(expected, empty) == (float("inf"), "[0]['boxes']")
    assert largest_difference(empty, expected) == (float("inf"), "[0]['boxes']")
