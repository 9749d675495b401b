"""Guided backpropagation, deconvolution and Grad-CAM on networks whose answer is known, however they rectify."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convswap.see import attribute, grad_cam


class Tiny(nn.Module):
    """sum_j v_j relu(w_j x) of one pixel x = 2, w = (1, -1, 3), v = (5, 7, -2)."""

    def __init__(self, rectify: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 1, bias=False), nn.Conv2d(3, 1, 1, bias=False)
        self.first.weight.data[:, 0, 0, 0] = torch.tensor([1.0, -1, 3])
        self.second.weight.data[0, :, 0, 0] = torch.tensor([5.0, 7, -2])
        self.rectify = rectify

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.rectify(self.first(x))).flatten(1)


def statement(x: Tensor) -> Tensor:
    x.relu_()
    return x


RECTIFIERS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "relu6": nn.ReLU6(),
    "hardtanh": nn.Hardtanh(0, 100, inplace=True),
    "threshold": nn.Threshold(0, 0),
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "F.relu in place by position": lambda x: F.relu(x, True),
    "F.relu6": F.relu6,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "method": Tensor.relu,
    "statement": statement,
    "clamp": lambda x: x.clamp(min=0),
    "torch.clamp": lambda x: torch.clamp(x, 0, 50),
    "clamp_": lambda x: x.clamp_(0),
    "clamp_min": lambda x: x.clamp_min(0.0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "maximum, turned round": lambda x: torch.max(torch.zeros(()), x),
}


@pytest.mark.parametrize("name", RECTIFIERS)
def test_every_way_to_rectify_follows_the_rule(name: str) -> None:
    model, image = Tiny(RECTIFIERS[name]), torch.full((1, 1, 1, 1), 2.0)
    # Plain: 5 * 1 - 2 * 3; relu6 and its like cut at 6 exactly, where torch's gradient is 0 too.
    plain = attribute(model, image, 0, method="gradient")
    assert float(plain.values) == pytest.approx(5 if "6" in name else -1)
    guided, deconvolution = (attribute(model, image, 0, method=m) for m in ("guided", "deconvolution"))
    assert float(guided.values) == 5  # the second was off, the third speaks against
    assert float(deconvolution.values) == 5 - 7  # the second counts though it was off
    assert (guided.rectifiers, deconvolution.rectifiers, plain.rectifiers) == (1, 1, 0)


@pytest.mark.parametrize("method", ["guided", "deconvolution"])
def test_no_silent_fallback_to_plain_gradients(method: str) -> None:
    image = torch.full((1, 1, 1, 1), 2.0)
    for smooth in (F.silu, nn.GELU(), nn.Hardswish(), lambda x: x.clamp(-1, 1), lambda x: torch.maximum(x, x + 1)):
        with pytest.raises(ValueError, match=f"no rectifier.*{method} is not defined"):
            attribute(Tiny(smooth), image, method=method)
    with pytest.raises(ValueError, match="SiLU"):
        attribute(Tiny(F.silu), image, method=method)
    with pytest.raises(RuntimeError, match="compile"):
        attribute(torch.compile(Tiny(F.relu)), image, method=method)


def test_other_activations_are_counted() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.Hardswish(), nn.SiLU(), nn.Flatten())
    found = attribute(model, torch.ones(2, 1, 1, 1))
    assert (found.rectifiers, found.untouched) == (1, {"Hardswish": 1, "SiLU": 1})


class Net(nn.Module):
    def __init__(self, functional: bool) -> None:
        super().__init__()
        self.functional = functional
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, stride=2), nn.Linear(8, 5)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        act = F.relu if self.functional else self.relu
        return self.c(act(self.b(act(self.a(x)))).mean((2, 3)))


def by_hooks(model: Net, images: Tensor, target: Tensor) -> Tensor:
    """Guided backpropagation in another way: hooks on the inputs of one rectifier used twice."""
    x = images.clone().requires_grad_()
    first = model.a(x)
    one = first.relu()
    one.register_hook(lambda g: g.clamp(min=0))
    second = model.b(one)
    two = second.relu()
    two.register_hook(lambda g: g.clamp(min=0))
    model.c(two.mean((2, 3))).gather(1, target[:, None]).sum().backward()
    assert x.grad is not None
    return x.grad


def test_a_network_with_a_shared_or_functional_rectifier() -> None:
    torch.manual_seed(0)
    modules, functional = Net(False), Net(True)
    functional.load_state_dict(modules.state_dict())
    images = torch.randn(4, 3, 9, 9)
    first, second = attribute(modules, images), attribute(functional, images)
    torch.testing.assert_close(first.values, second.values)
    torch.testing.assert_close(first.target, modules(images).argmax(1))
    wanted = by_hooks(functional, images, first.target)
    torch.testing.assert_close(first.values, wanted)
    plain = attribute(functional, images, method="gradient")
    assert (plain.values - second.values).abs().max() > 0.1 * plain.values.abs().max()
    assert all(p.grad is None for p in modules.parameters())
    assert first.rectifiers == 2


def test_wrong_targets_and_outputs() -> None:
    model, images = Net(True), torch.randn(2, 3, 9, 9)
    with pytest.raises(ValueError, match="classes are 0 to 4"):
        attribute(model, images, 5)
    with pytest.raises(ValueError, match="method='cam'"):
        attribute(model, images, method="cam")
    with pytest.raises(ValueError, match="scores"):
        attribute(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()), images)
    assert attribute(model, images, torch.tensor([1, 4])).target.tolist() == [1, 4]


def test_grad_cam_of_a_known_network() -> None:
    """A = x in two channels, score = 3 mean(A_0) - mean(A_1): a = (3, -1) / pixels."""
    first = nn.Conv2d(1, 2, 1, bias=False)
    first.weight.data[:, 0, 0, 0] = torch.tensor([1.0, 2.0])
    last = nn.Linear(2, 1, bias=False)
    last.weight.data[0] = torch.tensor([3.0, -1.0])
    model = nn.Sequential(first, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    x = torch.tensor([[[[1.0, -2.0], [0.0, 4.0]]]])
    found = grad_cam(model, x, 0, layer="1")
    torch.testing.assert_close(found.maps, (3 * x.relu() - 2 * x.relu())[:, 0] / 4)
    # Before the rectifier: the second pixel is negative and has no gradient.
    before = grad_cam(model, x, layer="0", relu=False)
    a = torch.tensor([3.0, -1.0]) / 4 * 2 / 4  # two of four pixels pass a gradient of a quarter
    torch.testing.assert_close(before.maps, (a[0] * x + a[1] * 2 * x)[:, 0])
    assert float(grad_cam(model, x, layer="0").maps.min()) == 0
    assert found.at((4, 4)).shape == (1, 4, 4)
    assert grad_cam(model, x).layer == "1"
    with pytest.raises(ValueError, match="no feature map"):
        grad_cam(model, x, layer="4")
    with pytest.raises(ValueError, match="unknown layer"):
        grad_cam(model, x, layer="conv9")
