"""Stored spectra hold memory: what makes them useless frees it at once, not at the next call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from convswap.units import NIFFConv2d


@pytest.mark.parametrize(
    "change",
    [
        lambda unit: unit.double(),
        lambda unit: unit.half(),
        lambda unit: unit.to("meta"),
        lambda unit: unit.load_state_dict(unit.state_dict()),
    ],
)
def test_moves_and_loads_free_what_was_stored(change: Callable[[NIFFConv2d], Any]) -> None:
    unit = NIFFConv2d(3, 3, 3, padding=1, groups=3).eval()
    with torch.no_grad():
        for size in (8, 9):
            unit(torch.randn(1, 3, size, size))
    assert len(unit.spectrum.store) == 2
    change(unit)
    assert len(unit.spectrum.store) == 0
