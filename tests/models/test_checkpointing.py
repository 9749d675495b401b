"""Activation checkpointing: the same training, and running statistics that move once per step."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convswap
from convswap.models import create_model
from convswap.models.checkpointing import checkpointed, checkpointed_stage
from convswap.models.cifar_densenet import CifarDenseNet, DenseBlock, DenseLayer
from convswap.models.cifar_resnet import CifarResNet
from convswap.models.hardnet import HarDNet
from convswap.models.threshnet import ThreshNet
from convswap.testing.ranks import two_ranks

NETWORKS = {
    "densenet": partial(CifarDenseNet, 16, 4, proj_drop_rate=0.2),
    "densenet, no bottleneck": partial(CifarDenseNet, 10, 4, bottleneck=False),
    "densenet with minimum blocks": partial(CifarDenseNet, 16, 4, minimum=True),
    "resnet": partial(CifarResNet, 1),
    "hardnet": partial(HarDNet, (8, 8), ((4, 6, 16, True), (4, 8, 24, False)), num_classes=10),
    "threshnet": partial(ThreshNet, (1, 1, 1, 2, 2), (16, 16, 16, 24, 32)),
}


def train(model: nn.Module, steps: int, *, autocast: bool = False) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        images, labels = torch.randn(4, 3, 32, 32), torch.randint(0, 10, (4,))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(model(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", NETWORKS)
def test_ten_steps_are_the_same_with_all_running_statistics(name) -> None:
    torch.manual_seed(0)
    plain = NETWORKS[name]().train()
    efficient = copy.deepcopy(plain)
    efficient.set_grad_checkpointing()
    assert train(efficient, 10) == pytest.approx(train(plain, 10), abs=1e-6)
    state = plain.state_dict()
    torch.testing.assert_close(efficient.state_dict(), state, rtol=1e-5, atol=1e-6)
    counts = {int(tensor) for key, tensor in state.items() if key.endswith("num_batches_tracked")}
    assert counts == {10}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_under_autocast(name) -> None:
    """Gradients of maps are summed in another order, so they agree to the rounding of bfloat16."""
    torch.manual_seed(0)
    plain = NETWORKS[name]().train()
    efficient = copy.deepcopy(plain)
    efficient.set_grad_checkpointing()
    assert train(efficient, 1, autocast=True) == train(plain, 1, autocast=True)
    torch.testing.assert_close(dict(efficient.named_buffers()), dict(plain.named_buffers()), rtol=0, atol=0)
    gradients = [torch.cat([p.grad.flatten() for p in model.parameters()]) for model in (plain, efficient)]
    assert (gradients[0] - gradients[1]).norm() < 0.01 * gradients[0].norm()


@pytest.mark.parametrize("unit", ["circle", "ic", "xnor"])
def test_units_inside_are_checkpointed_too(unit) -> None:
    torch.manual_seed(0)
    host = CifarDenseNet(16, 4)
    plain = convswap.swap(host, unit, example_input=torch.randn(2, 3, 32, 32), start="fresh").train()
    efficient = copy.deepcopy(plain)
    efficient.set_grad_checkpointing()
    assert train(efficient, 3) == train(plain, 3)
    torch.testing.assert_close(efficient.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_a_checkpointed_layer_keeps_no_map_of_its_own() -> None:
    block = DenseBlock(*(DenseLayer(8 + 4 * i, 4) for i in range(4))).train()

    def kept() -> int:
        seen: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            if tensor.dim() == 4 and not isinstance(tensor, nn.Parameter):
                seen[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            block(torch.randn(1, 8, 8, 8, requires_grad=True))
        return sum(seen.values())

    plain, block.memory_efficient = kept(), True
    assert kept() <= (8 + 16) * 64 < plain


@pytest.mark.parametrize("in_place", [False, True])
def test_buffers_of_any_kind_are_those_of_the_first_run(in_place) -> None:
    class Counting(nn.Module):
        """A module that uses its own buffer, and changes it or puts a new tensor in its place."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls.add_(1) if in_place else self.calls + 1
            return (x * self.calls).exp()

    module, x = Counting(), torch.ones(3, requires_grad=True)
    first = checkpointed(module, x, modules=(module,))
    second = checkpointed(module, x, modules=(module,))
    first.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(3).exp())
    assert module.calls == 2
    second.sum().backward(retain_graph=True)
    second.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(3).exp() + 2 * 2 * torch.full((3,), 2.0).exp())
    assert module.calls == 2


def test_a_failing_backward_pass_gives_the_buffers_back() -> None:
    class Failing(nn.BatchNorm1d):
        runs = 0

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            if self.runs == 2:
                raise MemoryError
            return super().forward(x).exp()

    norm = Failing(2)
    own = norm.running_mean
    y = checkpointed(norm, torch.randn(3, 2, requires_grad=True), modules=(norm,))
    with pytest.raises(MemoryError):
        y.sum().backward()
    assert norm.running_mean is own


def test_a_stage_that_is_one_module_is_one_part() -> None:
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    conv = nn.Conv2d(3, 3, 1)
    assert torch.equal(checkpointed_stage(conv, x), conv(x))
    assert torch.equal(checkpointed_stage(nn.Sequential(conv, nn.ReLU()), x), conv(x).relu())


def test_a_compiled_network_trains_alike() -> None:
    torch.manual_seed(0)
    plain = CifarDenseNet(10, 4)
    efficient = copy.deepcopy(plain)
    efficient.set_grad_checkpointing()
    compiled = torch.compile(efficient, fullgraph=True, backend="aot_eager")
    assert train(compiled, 2) == pytest.approx(train(plain, 2), abs=1e-6)
    torch.testing.assert_close(efficient.state_dict(), plain.state_dict(), rtol=1e-6, atol=1e-6)


def test_inference_and_export_do_not_see_it() -> None:
    model = CifarDenseNet(10, 4, memory_efficient=True).eval()
    image = torch.randn(1, 3, 16, 16)
    program = torch.export.export(model, (image,))
    assert not any("checkpoint" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(image), model(image))
    torch.testing.assert_close(convswap.fuse(model, image)(image), model(image), rtol=1e-4, atol=1e-5)


def efficient_block() -> DenseBlock:
    """A block for `two_ranks`, which trains it under DDP."""
    block = DenseBlock(DenseLayer(4, 2), DenseLayer(6, 2))
    block.memory_efficient, block.in_channels = True, 4
    return block


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch was built without distributed")
def test_two_ranks_agree() -> None:
    assert two_ranks(efficient_block, {}) is None


def test_saved_with_the_network(tmp_path) -> None:
    model = create_model("cifar_densenet_bc22_12", num_classes=3, memory_efficient=True)
    convswap.save(model, tmp_path / "model.safetensors")
    loaded = convswap.load(tmp_path / "model.safetensors")
    assert loaded.features.denseblock2.memory_efficient
    loaded.set_grad_checkpointing(False)
    assert not loaded.features.denseblock2.memory_efficient


def test_refusals_name_the_thing() -> None:
    with pytest.raises(ValueError, match="AllCNN has no activation checkpointing"):
        create_model("all_cnn_c", num_classes=3).set_grad_checkpointing()
    create_model("all_cnn_c", num_classes=3).set_grad_checkpointing(False)
    with pytest.raises(ValueError, match="enable='yes' is not allowed"):
        CifarResNet(1).set_grad_checkpointing("yes")
    with pytest.raises(ValueError, match="memory_efficient='yes' is not allowed"):
        CifarDenseNet(10, 4, memory_efficient="yes")


def test_resnet1202_takes_a_step() -> None:
    torch.manual_seed(0)
    model = create_model("cifar_resnet1202", num_classes=10).train()
    model.set_grad_checkpointing()
    before = model.layer1[0].conv1.weight.clone()
    (loss,) = train(model, 1)
    assert loss == loss
    assert not torch.equal(before, model.layer1[0].conv1.weight)
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.layer3[199].bn2.num_batches_tracked == 1
