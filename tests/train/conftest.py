"""What the tests of this room share: the small training, also as fixtures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from small_training import Bounded, make_data, make_model, make_recipe
from torch import nn

from convswap.data import Data

__all__ = ["Bounded", "make_data", "make_model", "make_recipe"]


@pytest.fixture
def data() -> Data:
    return make_data()


@pytest.fixture
def model() -> nn.Sequential:
    return make_model()


@pytest.fixture
def fresh_model() -> Callable[[], nn.Sequential]:
    return make_model
