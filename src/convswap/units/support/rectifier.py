"""A rectifier whose output may be overwritten."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...ops.gradients import wants_gradient


class FreeReLU(nn.ReLU):
    """`max(x, 0)` as the end of a unit: an in-place activation may follow it while training.

    The backward pass of `nn.ReLU` reads its output, so nothing may overwrite that output. This rectifier keeps its
    input (as `F.threshold` does, with the same values and gradients). Without gradients it is `nn.ReLU`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        if wants_gradient(input) and not torch.compiler.is_exporting():
            return F.threshold(input, 0.0, 0.0)
        return super().forward(input)
