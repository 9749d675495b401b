from __future__ import annotations

import torch
from torch import Tensor, nn

from convswap.train import parameter_groups, undecayed_names
from convswap.units import FeatureUnit
from convswap.units.contract import registry
from convswap.units.plain import PlainConv2d


class Gated(FeatureUnit):
    """A unit with a parameter that must not decay, also below a child."""

    bias = None

    def setup(self) -> None:
        self.weight = nn.Parameter(torch.zeros(4, 4, 3, 3))
        self.gate = nn.Parameter(torch.zeros(1, 4, 1, 1))
        self.child = nn.Module()
        self.child.gate = nn.Parameter(torch.zeros(2, 2))
        self.child.bias = nn.Parameter(torch.zeros(2, 2))

    def forward(self, input: Tensor) -> Tensor:
        return input


def test_biases_norms_and_vectors_do_not_decay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm((2, 2)), nn.Linear(4, 2))
    model.register_parameter("scale", nn.Parameter(torch.ones(3)))
    assert undecayed_names(model) == {"0.bias", "1.weight", "1.bias", "2.weight", "2.bias", "3.bias", "scale"}


def test_what_a_unit_excludes_does_not_decay(monkeypatch) -> None:
    monkeypatch.setattr(registry, "_UNITS", dict(registry._UNITS))
    registry.register_unit(
        "gated", paper="none", year=2024, summary="a test", warm_start="none", fusion="none",
        no_weight_decay=("gate",),
    )(Gated)  # fmt: skip
    assert undecayed_names(nn.Sequential(Gated(1, 1, 3))) == {"0.gate", "0.child.gate", "0.child.bias"}
    assert undecayed_names(PlainConv2d(3, 4, 3)) == {"bias"}


def test_what_the_model_excludes_does_not_decay() -> None:
    class Model(nn.Linear):
        def no_weight_decay(self) -> set[str]:
            return {"weight"}

    assert undecayed_names(Model(3, 2, bias=False)) == {"weight"}


def test_groups_hold_every_trainable_parameter_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[3].weight = model[2].weight
    model[0].weight.requires_grad_(False)
    decayed, kept = parameter_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0
    assert [p is model[2].weight for p in decayed["params"]] == [True]
    assert {id(p) for p in kept["params"]} == {id(p) for p in model.parameters() if p.ndim == 1}


def test_a_parameter_shared_with_a_norm_does_not_decay() -> None:
    model = nn.ModuleList([nn.Linear(3, 2, bias=False), nn.LayerNorm((2, 3), bias=False)])
    model[1].weight = model[0].weight
    (group,) = parameter_groups(model, 0.1)
    assert group["weight_decay"] == 0
