"""RMNeXt against the authors' tensors; sizes: `published/rmnet.json`."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import convswap
import convswap.models.rmnext as module
from convswap import plan_remove_residuals, remove_residuals
from convswap.models import create_model
from convswap.models.rmnext import RMNeXt, RMNeXtBlock
from convswap.testing.aids import randomize_batch_norms

NAMES = [f"rmnext{form}" for form in ("41_64x5_g16", "50_64x5_g32", "50_64x6_g32", "101_64x6_g16", "152_64x6_g32")]
SMALL = {"layers": [1, 2], "width": 16, "group_channels": 4}


def test_golden(golden) -> None:
    """Without the authors' `running1` and `running2`, which only record statistics for their own conversion."""
    reference = golden("rmnet")["case_rmnext_block_s1"]
    config = reference["config"]
    block = RMNeXtBlock(
        config["in_planes"], config["out_planes"], config["stride"], config["expand_ratio"], config["cpg"]
    )
    state = {name: value for name, value in reference["state_dict"].items() if not name.startswith("running")}
    block.double().load_state_dict(state, strict=True)
    with torch.no_grad():
        output = block.eval()(reference["input"])
    torch.testing.assert_close(output, reference["output"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_registered_with_timm(name) -> None:
    assert name in timm.list_models("rmnext*")
    assert hasattr(module, name)
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7, in_chans=1)
        image = torch.empty(2, 1, 64, 64)
        assert model(image).shape == (2, 7)
        assert model.forward_features(image).shape == (2, 512, 2, 2)
    depth = int(name.removeprefix("rmnext").partition("_")[0])
    inside = [m for m in model.modules() if isinstance(m, RMNeXtBlock)]
    assert 2 + 3 * len(inside) == depth
    first, expand, group = inside[0], *map(int, name.rpartition("_64x")[2].split("_g"))
    assert first.conv2.in_channels == (expand - 1) * 64
    assert first.conv2.in_channels // first.conv2.groups == group
    assert inside[-1].conv2.in_channels // inside[-1].conv2.groups == 8 * group


@pytest.mark.parametrize("unit", ["circle", "ic"])
def test_swaps_saves_and_fuses(unit, tmp_path) -> None:
    x = torch.randn(2, 3, 32, 32)
    model = create_model("rmnext41_64x5_g16", num_classes=3, **SMALL)
    swapped = convswap.swap(model.eval(), unit, example_input=x)
    convswap.save(swapped, tmp_path / "model.safetensors")
    torch.testing.assert_close(convswap.load(tmp_path / "model.safetensors")(x), swapped(x), rtol=0, atol=0)
    fused = convswap.fuse(swapped, x)
    torch.testing.assert_close(fused(x), swapped(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.export.export(fused, (x,)).module()(x), fused(x))


def test_the_size_without_residual_connections() -> None:
    """23.98 M parameters and 3778 M multiply-adds in the authors' program, its stem fused."""
    with torch.device("meta"):
        model = timm.create_model("rmnext41_64x5_g16")
        model.stem = nn.Sequential(*(block.fuse() for block in model.stem))
        plan = plan_remove_residuals(model.eval(), torch.empty(1, 3, 224, 224))
    assert (plan.parameters_after, plan.macs_after, plan.remaining) == (23_975_592, 3_777_761_280, 0)


def test_without_residual_connections_it_answers_the_same() -> None:
    model, x = RMNeXt((1, 2), width=16, group_channels=4, num_classes=3).eval(), torch.randn(2, 3, 64, 64)
    randomize_batch_norms(model)
    plain = convswap.fuse(remove_residuals(convswap.fuse(model, x), x), x)
    torch.testing.assert_close(plain(x), model(x), rtol=1e-4, atol=1e-4)
    program = torch.export.export(plain, (x,))
    assert not any("aten.add" in str(node.target) for node in program.graph.nodes)


def test_a_block_starts_as_its_shortcut_and_trains() -> None:
    model = RMNeXt((1, 2), width=16, group_channels=4, num_classes=3)
    assert all(not m.bn3.weight.any() for m in model.modules() if isinstance(m, RMNeXtBlock))
    weight = model.stages[1][1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.05)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # the gradients inside a block are zero until its last BatchNorm has moved
        optimizer.zero_grad()
        model(torch.randn(4, 3, 64, 64)).square().sum().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    assert not any(isinstance(m, nn.Dropout) and m.p for m in model.modules())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"group_channels": 24}, "group_channels=24 is not allowed; it must divide the 64 channels"),
        ({"expand": 1}, "expand=1"),
        ({"width": 0}, "width=0"),
    ],
)
def test_wrong_arguments_are_named(arguments, words) -> None:
    with pytest.raises(ValueError, match=words):
        RMNeXt(**({"layers": (1,), "width": 16, "group_channels": 4} | arguments))
