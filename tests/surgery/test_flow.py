"""What the data flow says: the ends of a network, and who reads a convolution's weight."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from networks import DataDependent, conv_bn
from torch import Tensor, nn

from convswap.surgery import select
from convswap.surgery.flow import FlowReader


class Heads(nn.Module):
    """Two heads of several levels, as in detectors, defined before the body they read."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)) for _ in range(2))
        self.classes = nn.ModuleList(nn.Conv2d(8, 5, 1) for _ in range(2))
        self.body, self.down = conv_bn(3, 8), conv_bn(8, 8, stride=2)

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        levels = [x := F.relu(self.body(x)), F.relu(self.down(x))]
        return {
            "boxes": [head(y).flatten(2) for head, y in zip(self.boxes, levels, strict=True)],
            "scores": [head(y).sigmoid() for head, y in zip(self.classes, levels, strict=True)],
        }


class Towers(nn.Module):
    """Two inputs, two encoders, one linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = conv_bn(3, 8), nn.Sequential(nn.ReLU(), nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1))
        self.head = nn.Linear(16, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(a).mean((2, 3)), self.right(b).mean((2, 3))], 1))


class Gated(nn.Module):
    """Ends with a convolution times a gate that comes from a linear layer; a functional convolution stands before."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.gate = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 4)
        self.kernel = nn.Parameter(torch.randn(4, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(self.a(x), self.kernel)
        return self.b(y).mul_(self.gate(y.mean((2, 3)))[:, :, None, None])


@pytest.mark.parametrize(
    ("network", "first", "output"),
    [
        (Heads, ["body.0"], ["boxes.0.1", "boxes.1.1", "classes.0", "classes.1"]),
        (Towers, ["left.0", "right.1"], []),
        (Gated, ["a"], ["b"]),
        (lambda: nn.Conv2d(3, 4, 3), [""], [""]),
    ],
)
def test_ends_of_a_network(network: type[nn.Module], first: list[str], output: list[str]) -> None:
    model = network()
    state = torch.get_rng_state()
    assert [path for path, _ in select(model, "first")] == first
    assert [path for path, _ in select(model, "output")] == output
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.device.type == "cpu" for p in model.parameters())


def test_a_model_that_cannot_run_on_shapes_is_read_in_definition_order() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), DataDependent())
    reader = FlowReader(model, None)
    assert reader.flow is None
    assert reader.problem
    assert [path for path, _ in select(model, "first")] == ["0"]
    assert [path for path, _ in select(model, "output")] == ["1.body.0"]


def test_hooks_of_the_user_see_no_shapes() -> None:
    model, seen = conv_bn(3, 4), []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    select(model, "first")
    assert seen == []
