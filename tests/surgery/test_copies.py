"""Surgery works on copies: they must be the model that was given, and the given one is run to prove it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from networks import Plain, conv_bn, randomize
from torch import Tensor, nn
from torch.nn.utils import prune
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor

import convswap
from convswap.errors import FusionError, SurgeryError
from convswap.surgery.copying import copy_model
from convswap.surgery.modes import evaluating


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / a.abs().max()).item()


@torch.no_grad()
def test_a_feature_extractor_stays_in_eval_mode() -> None:
    """Its own `__deepcopy__` forgets the mode (pytorch/vision#8634): swap and fuse were 99.6 % off, without a word."""
    torch.manual_seed(0)
    model = create_feature_extractor(randomize(resnet18()), ["layer1", "layer2"]).eval()
    x = image(2, 3, 64, 64)
    expected = model(x)["layer2"]
    swapped = convswap.swap(model, "circle", example_input=x)
    assert not any(module.training for module in swapped.modules())
    assert relative(expected, swapped(x)["layer2"]) < 1e-5
    plan = convswap.plan_fuse(model, x)
    fused = plan.apply()
    assert plan.count("fold") == 10
    assert not any(module.training for module in fused.modules())
    assert relative(expected, fused(x)["layer2"]) < 1e-5


def test_a_copy_keeps_every_mode_and_trainability() -> None:
    model = create_feature_extractor(resnet18(), ["layer1"]).train()
    model.layer1.eval()
    model.conv1.weight.requires_grad_(False)
    twin = copy_model(model)
    assert [m.training for m in twin.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in model.parameters()]


def test_the_given_model_keeps_its_graph_when_it_is_watched() -> None:
    """Such a model holds two graphs and shows one by its mode: putting back flags alone left the wrong one."""
    model = create_feature_extractor(resnet18(), ["layer1"]).train()
    before = model.graph
    with evaluating(model):
        assert model.graph is not before
    assert model.graph is before


def plain_copy(module: nn.Module, memo: dict[int, Any]) -> Any:
    twin = type(module).__new__(type(module))
    memo[id(module)] = twin
    twin.__dict__ = copy.deepcopy(module.__dict__, memo)
    return twin


class Resets(nn.Module):
    """A host whose copies start with fresh statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv_bn(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> Resets:
        twin = plain_copy(self, memo)
        for module in twin.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
        return twin


class Forgets(nn.Module):
    """A host whose copies lose a number that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.factor = conv_bn(3, 4), 3.0

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.factor + 1

    def __deepcopy__(self, memo: dict[int, Any]) -> Forgets:
        twin = plain_copy(self, memo)
        twin.factor = 1.0
        return twin


class Itself(Forgets):
    """A host whose copy is no copy."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Forgets:
        return self


@torch.no_grad()
def test_statistics_that_a_copy_resets_are_carried_over() -> None:
    """Fuse proved 4.9e-16 against such a copy, of a network that was 81 % off."""
    model, x = randomize(Resets()), image(2, 3, 8, 8)
    fused = convswap.fuse(model, x)
    assert relative(model(x), fused(x)) < 1e-5
    swapped = convswap.swap(model, "circle", where="all", example_input=x)
    assert relative(model(x), swapped(x)) < 1e-5


def test_a_copy_that_computes_something_else_is_refused() -> None:
    x = image(2, 3, 8, 8)
    with pytest.raises(FusionError, match=r"a copy of the model computes another function .*Forgets.__deepcopy__"):
        convswap.fuse(randomize(Forgets()), x)
    with pytest.raises(SurgeryError, match=r"shares 'body.0.weight'"):
        convswap.swap(randomize(Itself()), "circle", where="all")


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "compute",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        lambda conv: prune.l1_unstructured(conv, "weight", 0.5),
    ],
    ids=["weight_norm", "spectral_norm", "prune"],
)
def test_weights_with_a_history_do_not_stop_a_copy(compute: Any) -> None:
    """After a pass with gradients `copy.deepcopy` refuses such models (pytorch#102981), and fuse did."""
    model = randomize(Plain())
    compute(model.head)
    x = image(2, 3, 8, 8)
    model(x).sum().backward()
    with pytest.raises(RuntimeError, match="deepcopy protocol"):
        copy.deepcopy(model)
    plan = convswap.plan_fuse(model, x)
    assert plan.count("fold") == 2
    with torch.no_grad():
        assert relative(model(x), plan.apply()(x)) < 1e-5
        swapped = convswap.swap(model, "circle", where="conv*", example_input=x)
        assert relative(model(x), swapped(x)) < 1e-5
