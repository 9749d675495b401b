"""Guided gradients stop at both ends of a clipped unit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from convswap.see.rectifiers import Rectifying


@pytest.mark.parametrize("clip", [F.relu6, lambda x: F.hardtanh(x, 0.0, 6.0), lambda x: x.clamp(0, 6)])
def test_no_gradient_passes_where_the_unit_is_clipped(clip: Callable[[Tensor], Tensor]) -> None:
    x = torch.tensor([-1.0, 3.0, 7.0, 3.0], requires_grad=True)
    with Rectifying("guided"):
        y = clip(x)
    (found,) = torch.autograd.grad(y, x, torch.tensor([1.0, 2.0, 1.0, -2.0]))
    assert found.tolist() == [0.0, 2.0, 0.0, 0.0]
    with Rectifying("deconvolution"):
        y = clip(x)
    (found,) = torch.autograd.grad(y, x, torch.tensor([1.0, 2.0, 1.0, -2.0]))
    assert found.tolist() == [1.0, 2.0, 1.0, 0.0]
