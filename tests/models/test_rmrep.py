"""RMRep and RepVGG against the authors' tensors, and their deployed form; sizes: `published/rmnet.json`."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import convswap
import convswap.models.rmrep as module
from convswap.models import create_model
from convswap.models.rep_layers import RepBlock, ReservedRepBlock, SqueezeExcite
from convswap.models.rmrep import RMRep
from convswap.testing.aids import randomize_batch_norms

NAMES = [f"{family}_{depth}" for family in ("rmrep", "repvgg") for depth in (21, 37, 69, 133)]
BLOCKS = {
    "case_rep_block": lambda c: RepBlock(c["in_planes"], c["out_planes"], c["stride"]),
    "case_rmrep_block": lambda c: ReservedRepBlock(c["planes"], c["ratio"]),
    "case_rmrep_se_block": lambda c: ReservedRepBlock(c["in_planes"], c["ratio"], squeeze_excite=c["use_se"]),
}


@pytest.mark.parametrize("case", BLOCKS)
def test_golden(golden, case) -> None:
    """The authors' gate of reserved channels is 1e-5 off in their deployed form: ours equals the trained block."""
    reference = golden("rmnet")[case]
    block = BLOCKS[case](reference["config"]).double().eval()
    block.load_state_dict(reference["state_dict"], strict=True)
    with torch.no_grad():
        torch.testing.assert_close(block(reference["input"]), reference["output"], rtol=1e-9, atol=1e-9)
        fused = block.fuse()
        torch.testing.assert_close(fused(reference["input"]), reference["output"], rtol=1e-9, atol=1e-9)
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in fused.modules()) == 1


@pytest.mark.parametrize(
    "block",
    [
        lambda: RepBlock(4, 6, 2),
        lambda: RepBlock(4, 4, 2),
        lambda: ReservedRepBlock(8, 0.0),
        lambda: ReservedRepBlock(8, 0.75),
        lambda: ReservedRepBlock(5, 0.5, squeeze_excite=True),
    ],
)
def test_blocks_of_other_shapes_fuse_to_one_convolution(block) -> None:
    block = block().double().eval()
    randomize_batch_norms(block)
    x = torch.randn(2, block.conv33.in_channels, 9, 8, dtype=torch.double)  # of any sign
    with torch.no_grad():
        torch.testing.assert_close(block.fuse()(x), block(x), rtol=1e-12, atol=1e-12)


def test_a_reserved_channel_is_handed_on() -> None:
    block, x = ReservedRepBlock(8, 0.25), torch.rand(2, 8, 5, 5)
    assert torch.equal(block(x)[:, :2], x[:, :2])
    gate = SqueezeExcite(8, reserved=3)
    assert torch.equal(gate(x)[:, :3], x[:, :3])
    assert not torch.equal(gate(x)[:, 3:], x[:, 3:])


@pytest.mark.parametrize("name", NAMES)
def test_registered_with_timm(name) -> None:
    assert name in timm.list_models("*_*")
    assert hasattr(module, name)
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7, in_chans=1)
        image = torch.empty(2, 1, 64, 64)
        assert model(image).shape == (2, 7)
        assert model.forward_features(image).shape == (2, 512, 2, 2)
        deployed = timm.create_model(name, inference_mode=True)
    convolutions = [m for m in deployed.modules() if isinstance(m, nn.Conv2d)]
    assert {m.kernel_size for m in convolutions} == {(3, 3)}
    assert len(convolutions) == int(name.rpartition("_")[2])


def small(**arguments) -> RMRep:
    return RMRep(1, 0.25, num_classes=3, **arguments)


@pytest.mark.parametrize("gated", [False, True])
def test_fusing_gives_the_deployed_form(gated, tmp_path) -> None:
    model = small(squeeze_excite=gated).eval()
    randomize_batch_norms(model)
    x = torch.randn(2, 3, 64, 64)
    plan = convswap.plan_fuse(model, x)
    assert plan.difference < 1e-9
    assert plan.count("block") == 2 + 3 + 4 * 2
    fused = plan.apply()
    deployed = small(squeeze_excite=gated, inference_mode=True).eval()
    deployed.load_state_dict(fused.state_dict())
    assert torch.equal(deployed(x), fused(x))
    if not gated:
        program = torch.export.export(fused, (x,))
        assert not any("add" in str(node.target) for node in program.graph.nodes)


@pytest.mark.parametrize("unit", ["circle", "ic"])
def test_swaps_saves_and_fuses(unit, tmp_path) -> None:
    x = torch.randn(2, 3, 32, 32)
    model = create_model("rmrep_21", num_classes=3, pairs=1)
    swapped = convswap.swap(model.eval(), unit, example_input=x)
    convswap.save(swapped, tmp_path / "model.safetensors")
    torch.testing.assert_close(convswap.load(tmp_path / "model.safetensors")(x), swapped(x), rtol=0, atol=0)
    fused = convswap.fuse(swapped, x)
    torch.testing.assert_close(fused(x), swapped(x), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, RepBlock) for m in fused.modules()) or unit == "ic"


def test_trains_also_with_checkpointing() -> None:
    torch.manual_seed(0)
    model, x = small(squeeze_excite=True), torch.randn(4, 3, 64, 64)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.set_grad_checkpointing()
    model(x).square().sum().backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], gradients)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ratio": 1.0}, "ratio=1.0 is not allowed"),
        ({"ratio": True}, "ratio=True is not allowed"),
        ({"pairs": 0}, "pairs=0"),
        ({"squeeze_excite": 1.5}, "squeeze_excite=1.5"),
        ({"inference_mode": None}, "inference_mode=None"),
    ],
)
def test_wrong_arguments_are_named(arguments, words) -> None:
    with pytest.raises(ValueError, match=words):
        RMRep(**({"pairs": 1, "ratio": 0.25} | arguments))
