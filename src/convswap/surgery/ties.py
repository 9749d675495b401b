"""Detections whose scores tie: their order is arbitrary, so they are compared as sets within the tie.

A list of detections is a group of tensors with one row per detection, one of which is called `scores`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

_SCORES = re.compile(r"(\['|\.)(pred_)?scores('\])?$")
_FEW = 128  # numbers per row that are compared to find a row again; masks are larger and follow their row


def match_ties(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], limits: Mapping[str, float]
) -> dict[str, Tensor]:
    """`found` with its rows in the order of `expected`, as far as that exchanges rows of tied scores only.

    Args:
        expected, found: tensors of the same shapes, by path.
        limits: by path, the relative difference up to which two scores tie.
    """
    matched = dict(found)
    for path, scores in expected.items():
        name = _SCORES.search(path)
        if name is None or scores.dim() != 1 or not scores.is_floating_point():
            continue
        inside = [p for p in expected if p.startswith(path[: name.start()]) and p != path]
        rows = [p for p in inside if expected[p].shape[:1] == scores.shape]
        for start, end in _tied(scores, limits[path]):
            order = start + _pairing([(expected[p][start:end], found[p][start:end]) for p in rows])
            for p in rows:
                matched[p] = torch.cat([matched[p][:start], found[p][order], matched[p][end:]])
    return matched


def _tied(scores: Tensor, limit: float) -> Iterator[tuple[int, int]]:
    """The runs of at least two neighbours whose scores tie, as (start, end)."""
    near = ((scores[1:] - scores[:-1]).abs() <= limit * scores.abs().max()).tolist()
    start = 0
    for index, tied in enumerate([*near, False]):
        if not tied:
            if index > start:
                yield start, index + 1
            start = index + 1


def _pairing(columns: list[tuple[Tensor, Tensor]]) -> Tensor:
    """For every expected row the nearest found row that no other row has taken."""
    few = [[t.double().reshape(len(t), -1) for t in pair] for pair in columns if pair[0][0].numel() <= _FEW]
    size = len(columns[0][0]) if columns else 0
    if not few:
        return torch.arange(size)
    scale = [max(a.abs().max().item(), 1e-300) for a, _ in few]
    distance = sum(torch.cdist(a / s, b / s, p=1) for (a, b), s in zip(few, scale, strict=True))
    taken: list[int] = []
    for row in distance:  # type: ignore[union-attr]
        row[taken] = float("inf")
        taken.append(int(row.argmin()))
    return torch.tensor(taken, device=columns[0][0].device)
