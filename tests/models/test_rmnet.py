"""RMNet by name: ordinary ResNets; sizes: `published/rmnet.json`."""

from __future__ import annotations

import pytest
import timm
import torch

import convswap.models.rmnet as module
from convswap.models import create_model

NAMES = [f"rmnet{depth}" for depth in (18, 34, 20, 32, 44, 56, 110)]


@pytest.mark.parametrize("name", NAMES)
def test_registered_with_timm(name) -> None:
    assert name in timm.list_models("rmnet*")
    assert hasattr(module, name)
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7, in_chans=1)
        assert model(torch.empty(2, 1, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize(("name", "other"), [("rmnet18", "resnet18"), ("rmnet20", "cifar_resnet20_b")])
def test_they_are_what_their_names_say(name, other) -> None:
    model, same = create_model(name, num_classes=3), create_model(other, num_classes=3)
    same.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model.eval()(x), same.eval()(x))
