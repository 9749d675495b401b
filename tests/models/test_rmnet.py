"""RMNet by name: ordinary ResNets; sizes: `published/rmnet.json`."""

from __future__ import annotations

import pytest
import timm
import torch

import convswap
import convswap.models.rmnet as module
from convswap import plan_remove_residuals, remove_residuals
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


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("rmnet18", 20_176_360, 3_210_973_184),  # the authors' program: 20.176 M, 3211 M
        ("rmnet20", 502_042, 77_120_128),  # .502 M, 77.1 M
        ("rmnet56", 1_665_274, 246_989_440),  # 1.665 M, 247.0 M
    ],
)
def test_the_sizes_without_residual_connections(name, parameters, macs) -> None:
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        plan = plan_remove_residuals(model, torch.empty(1, *model.default_cfg["input_size"]))
    assert (plan.parameters_after, plan.macs_after, plan.remaining) == (parameters, macs, 0)


def test_without_residual_connections_it_answers_the_same() -> None:
    model = create_model("rmnet20", num_classes=3).eval()
    x = torch.randn(2, 3, 32, 32)
    plain = convswap.fuse(remove_residuals(model, x), x)
    torch.testing.assert_close(plain(x), model(x), rtol=1e-4, atol=1e-4)
    program = torch.export.export(plain, (x,))
    assert not any("aten.add" in str(node.target) for node in program.graph.nodes)
