"""Attributions against those of captum 0.9.0, recorded on one network with `nn.ReLU` and with `F.relu`.

captum patches modules: of a network that calls `F.relu` its guided backpropagation and its deconvolution are the plain
gradient, without a word. Ours are the same whichever way the network rectifies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convswap.see import attribute, grad_cam

Golden = Callable[[str], dict[str, Any]]


class Net(nn.Module):
    """conv - rectify - strided conv - rectify - mean - linear."""

    def __init__(self, functional: bool) -> None:
        super().__init__()
        self.functional = functional
        self.a, self.b, self.c = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 5, 3, stride=2), nn.Linear(5, 3)
        self.r1, self.r2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if self.functional:
            return self.c(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))
        return self.c(self.r2(self.b(self.r1(self.a(x)))).mean((2, 3)))


@pytest.fixture
def case(golden: Golden) -> dict[str, Any]:
    return golden("analysis")["case_captum"]


@pytest.fixture(params=[False, True], ids=["module", "functional"])
def net(request: pytest.FixtureRequest, case: dict[str, Any]) -> Net:
    model = Net(request.param).double().eval()
    model.load_state_dict(case["state_dict"])
    return model


def test_what_was_recorded_shows_the_silent_fallback(case: dict[str, Any]) -> None:
    for method in ("guided", "deconvolution"):
        assert torch.equal(case[f"{method}_functional"], case["gradient"])
        assert (case[method] - case["gradient"]).abs().max() > 0.2 * case["gradient"].abs().max()


@pytest.mark.parametrize("method", ["guided", "deconvolution", "gradient"])
def test_attributions_are_captums_for_modules_however_the_network_rectifies(
    net: Net, case: dict[str, Any], method: str
) -> None:
    found = attribute(net, case["input"], case["target"], method=method)
    torch.testing.assert_close(found.values, case[method], rtol=1e-12, atol=1e-15)


def test_grad_cam_is_captums(net: Net, case: dict[str, Any]) -> None:
    found = grad_cam(net, case["input"], case["target"], layer="b", relu=False)
    torch.testing.assert_close(found.maps, case["grad_cam_b"][:, 0], rtol=1e-12, atol=1e-15)
    if not net.functional:
        rectified = grad_cam(net, case["input"], case["target"], layer="r2")
        torch.testing.assert_close(rectified.maps, case["grad_cam_r2_relu"][:, 0], rtol=1e-12, atol=1e-15)


class Block(nn.Module):
    """A residual block whose last rectifier is a function."""

    def __init__(self, rectify: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.rectify = nn.Conv2d(2, 2, 3, padding=1), rectify

    def forward(self, x: Tensor) -> Tensor:
        return self.rectify(x + self.conv(x))


@pytest.mark.parametrize("rectify", [F.relu, lambda x: F.relu(x, inplace=True)], ids=["new", "in place"])
def test_by_default_grad_cam_is_of_the_rectified_map(rectify: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    stages = nn.Sequential(Block(rectify), Block(rectify))
    model = nn.Sequential(stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    images = torch.randn(2, 2, 6, 5)
    found = grad_cam(model, images)
    assert found.layer == "0.1"
    maps = stages(images).detach()
    weight = model[3].weight[found.target].detach() / 30  # the gradient of a class score through the mean
    torch.testing.assert_close(found.maps, (weight[:, :, None, None] * maps).sum(1).relu())
