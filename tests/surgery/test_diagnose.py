"""A fusion that cannot be proven names the likely cause."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from networks import Plain, conv_bn, randomize
from torch import Tensor, nn

import convswap
from convswap.errors import FusionError
from convswap.surgery.diagnose import why_different
from convswap.surgery.inputs import Inputs


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class Ties(nn.Module):
    """Takes signs of values that cancel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = conv_bn(3, 4), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1)
        self.b.load_state_dict(self.a.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(torch.where(self.a(x) - self.b(x) >= 0, 1.0, -1.0).to(x.dtype))


class Random(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = conv_bn(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.body(x), training=True)


class Amplifies(nn.Module):
    """Each BatchNorm takes away almost all of its map, and keeps the rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        return self.pairs(x)


def test_rounding_that_grows_is_no_tie() -> None:
    """Before: InceptionResnetV1 with random statistics was told of values that tie."""
    model = Amplifies().double().eval()
    with torch.no_grad():
        for conv, norm in model.pairs:
            conv.weight.copy_(torch.eye(3)[:, :, None, None])
            conv.bias.fill_(1e4)
            norm.running_mean.fill_(1e4)
    inputs = [Inputs((image(1, 3, 9, 9).double(),), {})]
    said = why_different(model, inputs, 1e-13)
    assert re.match(r"rounding alone changes the model's output by .*: its layers amplify it step by step", said), said


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Ties, r"rounding alone changes the model's output by \d.*, first in head: values that tie decide a sign"),
        (Random, "the model gives another output every time it is run"),
        (Plain, "something reads a parameter or a module that fusing changes"),
    ],
)
def test_the_likely_cause(network: type[nn.Module], message: str) -> None:
    """All were put down to random numbers."""
    torch.manual_seed(0)
    model = randomize(network()).double()
    inputs = [Inputs((image(1, 3, 9, 9).double(),), {})]
    assert re.search(message, why_different(model, inputs, 1e-9))
    assert not any(module._forward_hooks for module in model.modules())


def test_the_error_of_a_fusion_says_it() -> None:
    with pytest.raises(FusionError, match=r"more than tolerance=1e-09: the model gives another output") as caught:
        convswap.plan_fuse(randomize(Random()), image(1, 3, 9, 9))
    assert "\n" not in str(caught.value)
