"""The pre-activation ResNet-18 against the authors' block, and as a plain chain; size: `published/rmnet.json`."""

from __future__ import annotations

import pytest
import timm
import torch

import convswap
from convswap import plan_remove_residuals, remove_residuals
from convswap.models import create_model
from convswap.models.preact_resnet import PreActBlock
from convswap.testing.aids import randomize_batch_norms


def test_golden(golden) -> None:
    """Without the authors' `running`, which only records statistics for their own conversion."""
    reference = golden("rmnet")["case_preact_reschannel"]
    planes = reference["config"]["planes"]
    block = PreActBlock(planes, 2 * planes, 2).double().eval()
    state = {name: value for name, value in reference["state_dict"].items() if not name.startswith("running")}
    block.load_state_dict(state, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(block(reference["input"]), reference["output"], rtol=1e-9, atol=1e-9)


def test_registered_with_timm() -> None:
    with torch.device("meta"):
        model = timm.create_model("preactresvgg18", num_classes=7, in_chans=1)
        assert model(torch.empty(2, 1, 32, 32)).shape == (2, 7)
        assert model.forward_features(torch.empty(2, 1, 32, 32)).shape == (2, 512, 4, 4)
    assert model.default_cfg["first_conv"] == "conv1"


def test_the_size_without_residual_connections() -> None:
    """1636 M multiply-adds in the authors' program. Its 30.73 M parameters probably hold slopes of PReLUs too."""
    with torch.device("meta"):
        model = timm.create_model("preactresvgg18").eval()
        plan = plan_remove_residuals(model, torch.empty(1, 3, 32, 32))
    assert (plan.parameters_after, plan.macs_after, plan.remaining) == (30_724_618, 1_636_176_896, 0)


@pytest.mark.parametrize("unit", ["circle", "ic"])
def test_swaps_saves_and_fuses(unit, tmp_path) -> None:
    x = torch.randn(2, 3, 16, 16)
    model = create_model("preactresvgg18", num_classes=3, layers=[1, 2])
    swapped = convswap.swap(model.eval(), unit, example_input=x)
    convswap.save(swapped, tmp_path / "model.safetensors")
    torch.testing.assert_close(convswap.load(tmp_path / "model.safetensors")(x), swapped(x), rtol=0, atol=0)
    torch.testing.assert_close(convswap.fuse(swapped, x)(x), swapped(x), rtol=1e-4, atol=1e-4)


def test_without_residual_connections_it_answers_the_same() -> None:
    x = torch.randn(2, 3, 16, 16)
    model = create_model("preactresvgg18", num_classes=3, layers=[1, 2]).eval()
    randomize_batch_norms(model)
    plain = convswap.fuse(remove_residuals(model, x), x)
    torch.testing.assert_close(plain(x), model(x), rtol=1e-4, atol=1e-4)


def test_trains_also_with_checkpointing() -> None:
    torch.manual_seed(0)
    model, x = create_model("preactresvgg18", num_classes=3, layers=[1, 2]), torch.randn(4, 3, 16, 16)
    model(x).square().sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    assert all(gradient.any() for gradient in gradients)
    model.zero_grad()
    model.set_grad_checkpointing()
    model(x).square().sum().backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], gradients)
