from __future__ import annotations

import pytest
import torch
from torch import nn

from convswap.models import create_model
from convswap.surgery import swap
from convswap.train.layers import layer_scales
from convswap.train.parameters import parameter_groups

from .conftest import make_model


def scales(model: nn.Module, decay: float) -> dict[str, float]:
    found = layer_scales(model, decay)
    return {name: found[id(parameter)] for name, parameter in model.named_parameters()}


def test_each_layer_has_the_decay_of_those_behind_it() -> None:
    want = {"0.weight": 0.25, "1.weight": 0.25, "1.bias": 0.25, "3.weight": 0.5, "3.bias": 0.5}
    want |= {"4.weight": 0.5, "4.bias": 0.5, "9.weight": 1.0, "9.bias": 1.0}
    assert scales(make_model(), 0.5) == want
    assert layer_scales(make_model(), 1.0) == {}


def test_a_swapped_network_has_the_layers_of_its_host() -> None:
    host = create_model("cifar_resnet8", num_classes=10)
    swapped = swap(host, "ic", example_input=torch.zeros(1, 3, 32, 32))
    mine, hosts = scales(swapped, 0.5), scales(host, 0.5)
    assert mine["linear.weight"] == hosts["linear.weight"] == 1.0
    assert set(mine.values()) == set(hosts.values())
    for name, scale in hosts.items():
        if name in mine:
            assert mine[name] == scale, name


def test_a_norm_before_the_first_layer_belongs_to_it() -> None:
    assert scales(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)), 0.5)["0.weight"] == 1.0


def test_factors_multiply() -> None:
    groups = parameter_groups(make_model(), 0.1, layer_decay=0.5, norm_bias_scale=8.0)
    found = {round(group.get("lr_scale", 1.0), 6): len(group["params"]) for group in groups}
    assert found.keys() == {0.25, 2.0, 0.5, 4.0, 1.0}
    assert sum(len(group["params"]) for group in groups) == len(list(make_model().parameters()))


@pytest.mark.parametrize("decay_all", [False, True])
def test_decay_of_all_parameters_on_request(decay_all: bool) -> None:
    decayed = {
        g["weight_decay"]: sum(p.numel() for p in g["params"])
        for g in parameter_groups(make_model(), 0.1, decay_all=decay_all)
    }
    total = sum(parameter.numel() for parameter in make_model().parameters())
    assert decayed.get(0.1) == (total if decay_all else total - 2 * 16 - 8 - 3)
