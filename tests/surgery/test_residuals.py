"""Removing residual connections: the plan, the proof, the history, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from networks import conv_bn, randomize
from residual_networks import Basic, network, two_convolutions
from torch import nn

import convswap
from convswap import FusionError, SurgeryError, UsageError, plan_remove_residuals, remove_residuals
from convswap.surgery.history import history_of
from convswap.surgery.residuals.reading import is_addition

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def additions(model: nn.Module, image: torch.Tensor = IMAGE) -> int:
    """The sums of two feature maps in the exported graph."""
    graph = torch.export.export(model, (image,), strict=False).graph
    return sum(is_addition(node) for node in graph.nodes)


@pytest.fixture(scope="module")
def resnet20() -> Any:
    return randomize(convswap.create_model("cifar_resnet20", num_classes=10))


@pytest.fixture(scope="module")
def plan(resnet20: nn.Module) -> Any:
    return plan_remove_residuals(resnet20, IMAGE)


def test_the_plan_counts_before_anyone_pays(plan: Any) -> None:
    """The published counts of rmnet20 when deployed: .502 M parameters, 77.1 M multiply-accumulates."""
    assert (plan.parameters_before, plan.macs_before) == (269_722, 40_551_040)
    assert (plan.parameters_after, plan.macs_after) == (502_042, 77_120_128)
    first = plan.blocks[0]
    assert first.layers == ("16->32 3x3", "32->16 3x3")
    assert (first.macs_before, first.macs_after) == (4_718_592, 9_437_184)
    assert (first.parameters_before, first.parameters_after) == (4_672, 9_264)
    assert plan.blocks[3].layers == ("16->48 3x3 s2", "48->32 3x3")


def test_the_plan_prints_and_is_json(plan: Any) -> None:
    text = str(plan)
    assert "cost: 40.6 M -> 77.1 M multiply-accumulates an image, 270 k -> 502 k parameters" in text
    assert "why: " in text
    assert "layer2.0     16->32 block s2  16->48 3x3 s2 48->32 3x3" in text
    assert json.loads(plan.to_json())["macs_after"] == plan.macs_after


def test_a_long_chain_is_shortened_in_the_table() -> None:
    trunk = [layer for _ in range(5) for layer in (*conv_bn(8, 8), nn.ReLU())]
    plan = plan_remove_residuals(network(Basic(nn.Sequential(*trunk, nn.Conv2d(8, 8, 1)))), IMAGE)
    assert "8->16 3x3 ... 16->8 1x1 (6 convolutions)" in str(plan)


def test_the_network_keeps_its_function_and_fuse_leaves_no_addition(resnet20: nn.Module, plan: Any) -> None:
    before = {name: tensor.clone() for name, tensor in resnet20.state_dict().items()}
    removed, difference, precision = plan.apply_measured()
    assert difference < 1e-12
    assert precision == "float64"
    assert additions(resnet20) == 9
    fused = convswap.fuse(removed, IMAGE)
    assert additions(fused) == 0
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    torch.testing.assert_close(fused(IMAGE), resnet20(IMAGE), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(resnet20.state_dict(), before, rtol=0, atol=0)
    assert {parameter.dtype for parameter in fused.parameters()} == {torch.float32}


@pytest.mark.parametrize("then_fuse", [False, True])
def test_saved_and_loaded(plan: Any, tmp_path: Any, then_fuse: bool) -> None:
    removed = plan.apply()
    removed = convswap.fuse(removed, IMAGE) if then_fuse else removed
    again = convswap.load(convswap.save(removed, tmp_path / "chain.safetensors"))
    assert torch.equal(again(IMAGE), removed(IMAGE))
    assert history_of(again) == json.loads(json.dumps(history_of(removed)))
    assert history_of(again)[0]["kind"] == "remove_residuals"


def test_in_place(resnet20: nn.Module) -> None:
    model = randomize(convswap.create_model("cifar_resnet8", num_classes=10))
    expected = model(IMAGE)
    assert plan_remove_residuals(model, IMAGE).apply(inplace=True) is model
    torch.testing.assert_close(model(IMAGE), expected, rtol=1e-4, atol=1e-4)
    assert additions(model) == 0
    assert [record["kind"] for record in history_of(model)] == ["remove_residuals"]


def test_where_selects_blocks() -> None:
    model = randomize(convswap.create_model("cifar_resnet8", num_classes=10))
    some = plan_remove_residuals(model, IMAGE, where="layer[23].*")
    assert [block.path for block in some.blocks] == ["layer2.0", "layer3.0"]
    assert some.remaining == 1
    assert "1 additions of feature maps remain" in str(some)
    assert additions(some.apply()) == 1
    with pytest.raises(UsageError, match=r"where='layer9\.\*' matches none of the model's 3 residual blocks"):
        plan_remove_residuals(model, IMAGE, where="layer9.*")
    by_function = plan_remove_residuals(model, IMAGE, where=lambda path, _: path == "layer1.0")
    assert [block.path for block in by_function.blocks] == ["layer1.0"]


def test_a_changed_model_needs_a_new_plan() -> None:
    model = randomize(convswap.create_model("cifar_resnet8", num_classes=10))
    plan = plan_remove_residuals(model, IMAGE)
    model.layer1[0].conv1 = nn.Conv2d(16, 12, 3, padding=1)
    model.layer1[0].bn1 = nn.BatchNorm2d(12).eval()
    model.layer1[0].conv2 = nn.Conv2d(12, 16, 3, padding=1)
    model.eval()
    with pytest.raises(SurgeryError, match="the model changed since the plan was made; make a new plan"):
        plan.apply()


def test_new_weights_need_no_new_plan() -> None:
    model = randomize(convswap.create_model("cifar_resnet8", num_classes=10))
    plan = plan_remove_residuals(model, IMAGE)
    randomize(model, seed=5)
    torch.testing.assert_close(plan.apply()(IMAGE), model(IMAGE), rtol=1e-4, atol=1e-4)


def test_hooks_of_blocks_trainability_and_modes_are_kept() -> None:
    block = Basic(two_convolutions(8, 8))
    model = network(block, Basic(two_convolutions(8, 8)))
    seen: list[int] = []
    block.register_forward_hook(lambda *_: seen.append(1))
    block.requires_grad_(False)
    removed = remove_residuals(model, IMAGE)
    seen.clear()
    removed(IMAGE)
    assert seen == [1]
    assert [any(p.requires_grad for p in removed[index].parameters()) for index in (3, 4)] == [False, True]
    assert not any(module.training for module in removed.modules())


def test_chains_train() -> None:
    removed = remove_residuals(network(Basic(two_convolutions(8, 8))), IMAGE).train()
    removed(IMAGE).square().mean().backward()
    assert all(parameter.grad is not None for parameter in removed.parameters())


def test_float16_and_bfloat16_models_keep_their_precision() -> None:
    removed = remove_residuals(network(Basic(two_convolutions(8, 8))).bfloat16(), IMAGE.bfloat16())
    assert {parameter.dtype for parameter in removed.parameters()} == {torch.bfloat16}


def test_no_residual_block() -> None:
    with pytest.raises(UsageError, match="the model has no residual blocks: no module with convolutions adds two"):
        plan_remove_residuals(network(*conv_bn(8, 8)), IMAGE)


class AddsItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x).relu()) + x


def test_a_sum_in_the_networks_own_forward() -> None:
    with pytest.raises(UsageError, match="it forms 1 such sums elsewhere: move each into a module of its own"):
        plan_remove_residuals(AddsItself().eval(), IMAGE)


def test_no_example_and_a_wrong_one(resnet20: nn.Module) -> None:
    with pytest.raises(UsageError, match=r"remove_residuals needs example_input=, a tensor \(N, C, H, W\)"):
        plan_remove_residuals(network(Basic(two_convolutions(8, 8))))
    with pytest.raises(SurgeryError, match=r"does not accept the example input of shape \(1, 5, 32, 32\)"):
        plan_remove_residuals(resnet20, torch.randn(1, 5, 32, 32))


def test_train_mode_is_refused(resnet20: nn.Module) -> None:
    model = network(Basic(two_convolutions(8, 8)))
    model[3].train()
    with pytest.raises(FusionError, match=r"3 is in train mode.*call model\.eval\(\) first"):
        plan_remove_residuals(model, IMAGE)


def test_train_mode_between_plan_and_apply_is_refused() -> None:
    model = network(Basic(two_convolutions(8, 8)))
    plan = plan_remove_residuals(model, IMAGE)
    model.train()
    with pytest.raises(FusionError, match="the model is in train mode"):
        plan.apply()


def test_units_go_into_a_chain() -> None:
    chain = remove_residuals(network(Basic(two_convolutions(8, 8))), IMAGE)
    swapped = convswap.swap(chain, "circle", where="3.*", example_input=IMAGE)
    torch.testing.assert_close(swapped(IMAGE), chain(IMAGE), rtol=1e-4, atol=1e-4)
    assert additions(convswap.fuse(swapped, IMAGE)) == 0


def test_blocks_with_units_are_fused_first() -> None:
    model = convswap.swap(network(Basic(two_convolutions(8, 8))), "circle", where="3.*", example_input=IMAGE)
    with pytest.raises(SurgeryError, match=r"is computed in the forward pass; convswap\.fuse makes plain convolutions"):
        plan_remove_residuals(model, IMAGE)
    assert additions(remove_residuals(convswap.fuse(model, IMAGE), IMAGE)) == 0


def test_a_hook_inside_a_block_is_not_lost() -> None:
    model = network(Basic(two_convolutions(8, 8)), Basic(two_convolutions(8, 8)))
    model[3].trunk[0].register_forward_hook(lambda *_: None)
    plan = plan_remove_residuals(model, IMAGE)
    assert [skip.path for skip in plan.skipped] == ["3"]
    assert "trunk.0 inside of it carries a hook, which would be lost; remove the hook first" in str(plan)


def test_a_block_that_is_called_twice_stays() -> None:
    block = Basic(two_convolutions(8, 8))
    with pytest.raises(SurgeryError, match="can become a chain: 3: it is called 2 times"):
        plan_remove_residuals(network(block, block), IMAGE)


def test_a_block_in_a_plain_list_stays() -> None:
    model = network(Basic(two_convolutions(8, 8)))
    model.kept = [model[3]]
    with pytest.raises(SurgeryError, match="it also stands in kept, outside of the module tree"):
        plan_remove_residuals(model, IMAGE)


def test_dropout_that_goes_is_said() -> None:
    trunk = two_convolutions(8, 8)
    trunk.insert(3, nn.Dropout2d(0.1))
    assert "Dropout2d inside of these blocks is gone" in str(plan_remove_residuals(network(Basic(trunk)), IMAGE))


def test_a_lie_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof starts from the object the user holds: a wrong chain never leaves `apply`."""
    import convswap.surgery.residuals.widening as widening

    honest = widening._dirac
    monkeypatch.setattr(widening, "_dirac", lambda *given: honest(*given) * (1 + 1e-7))
    with pytest.raises(FusionError, match="without its residual connections the model differs by"):
        remove_residuals(network(Basic(two_convolutions(8, 8))), IMAGE)
