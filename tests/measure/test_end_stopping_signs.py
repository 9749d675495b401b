"""End-stopping is of bright and of dark squares alike."""

from __future__ import annotations

import torch
from torch import nn

from convswap.measure.end_stopping import end_stopping


def test_a_channel_for_bright_and_one_for_dark_answer_alike() -> None:
    """The two images are each other's negative, so what one channel does on the first the other does on the second."""
    conv = nn.Conv2d(3, 2, 3, padding=1, bias=False)
    with torch.no_grad():
        edge = torch.randn(1, 3, 3, 3, generator=torch.Generator().manual_seed(0))
        conv.weight.copy_(torch.cat([edge, -edge]))
    found = end_stopping(nn.Sequential(conv, nn.ReLU()), "1")
    torch.testing.assert_close(found.energy[0], found.energy[1])
    assert (found.energy > 0).any()
