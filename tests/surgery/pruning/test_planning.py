"""Pruning whole networks: shapes, targets, proof, saving, and what is refused."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import convswap
from convswap.errors import ConvswapError, DataError, SurgeryError, UsageError
from convswap.surgery.pruning import plan_prune, prune
from convswap.surgery.pruning.importance import CRITERIA

pytest.importorskip("torch_pruning")

NETWORKS = {
    "cifar_resnet20": 32,
    "cifar_resnet20_b": 32,
    "resnet18": 32,
    "resnet26": 32,
    "mobilenetv2_050": 32,
    "mobilenetv3_small_050": 32,
    "efficientnet_b0": 32,
    "regnetx_002": 32,
    "regnety_002": 32,
    "cifar_vgg16": 32,
    "densenet121": 32,
}


def data(size, classes=10, images=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, 3, size, size, generator=generator, dtype=dtype)
    y = torch.randint(0, classes, (images,), generator=generator)
    return [(x[:4], y[:4]), (x[4:], y[4:])]


def network(name):
    torch.manual_seed(0)
    return convswap.create_model(name, num_classes=10).eval()


def small_network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 10)).eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_real_network_halves_its_macs(name, tmp_path):
    size = NETWORKS[name]
    model = network(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plan = plan_prune(model, criterion="l1", macs=0.5, example_input=torch.randn(2, 3, size, size))
    assert 0.45 < plan.macs_after / plan.macs_before <= 0.5 + 1e-9
    assert plan.difference < 1e-9
    assert [skip.reason for skip in plan.skipped] == ["they are the model's output"]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    pruned = plan.apply().train()
    out = pruned(torch.randn(2, 3, size, size))
    assert out.shape == (2, 10)
    out.sum().backward()
    assert all(p.grad is not None for p in pruned.parameters())
    pruned.eval()
    again = convswap.load(convswap.save(pruned, tmp_path / "narrow.safetensors"))
    x = torch.randn(2, 3, size, size)
    assert torch.equal(again(x), pruned(x))


@pytest.mark.parametrize("criterion", ["random", "l1", "fpgm", "bn-scale", "taylor", "gradient-redundancy"])
def test_every_criterion_meets_its_target(criterion):
    model = network("cifar_resnet8")
    plan = plan_prune(model, data(16), criterion, macs=0.6, beyond_cap=True)
    assert 0.54 < plan.macs_after / plan.macs_before <= 0.6 + 1e-9
    assert plan.apply()(torch.randn(1, 3, 16, 16)).shape == (1, 10)
    again = plan_prune(model, data(16), criterion, macs=0.6, beyond_cap=True)
    assert again.narrow == plan.narrow
    told = json.loads(plan.to_json())
    assert told["macs_after"] == plan.macs_after
    assert all(layer.kept >= 1 for layer in plan.layers)


def test_random_depends_on_its_seed_and_leaves_the_generator():
    model = network("cifar_resnet8")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    plans = [plan_prune(model, data(16), "random", macs=0.6, seed=seed) for seed in (0, 1)]
    assert plans[0].narrow != plans[1].narrow
    assert torch.equal(state, torch.get_rng_state())


def test_parameters_are_a_target_too():
    plan = plan_prune(network("cifar_resnet8"), criterion="l1", parameters=0.4, example_input=torch.randn(1, 3, 16, 16))
    assert 0.36 < plan.parameters_after / plan.parameters_before <= 0.4 + 1e-9


def test_where_limits_what_loses_channels():
    model = network("cifar_resnet8")
    plan = plan_prune(model, criterion="l1", macs=0.9, where="*.conv1", example_input=torch.randn(1, 3, 16, 16))
    assert [layer.path for layer in plan.layers] == ["layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1"]


def test_a_shortcut_without_parameters_keeps_its_other_side():
    model = network("cifar_resnet8").double()
    plan = plan_prune(model, criterion="l1", macs=0.5, example_input=torch.randn(2, 3, 16, 16).double())
    shortcut = plan.apply().layer2[0].shortcut
    assert 2 <= shortcut.in_channels < 16
    assert shortcut.out_channels < 32
    assert any(source >= 0 for source in shortcut.source)
    x = torch.randn(1, shortcut.in_channels, 4, 4).double()
    y = shortcut(x)
    for channel, source in enumerate(shortcut.source):
        assert torch.equal(y[0, channel], x[0, source, ::2, ::2] if source >= 0 else torch.zeros(2, 2).double())


def test_dead_channels_go_without_a_trace():
    model = network("cifar_resnet8").double()
    with torch.no_grad():
        for stage in (model.layer1, model.layer2, model.layer3):
            block = stage[0]
            for tensor in (block.conv1.weight, block.bn1.weight, block.bn1.bias):
                tensor[::2] = 0
    share = plan_prune(
        model, criterion="l1", macs=0.5, where="*.0.conv1", example_input=torch.randn(2, 3, 16, 16).double()
    )
    for layer in share.layers:
        assert layer.kept <= layer.channels // 2 + 1
    plan = plan_prune(model, data(16, dtype=torch.float64), macs="cap", tau=1e-9, where="*.0.conv1")
    assert [layer.rank <= layer.channels // 2 for layer in plan.layers] == [True] * 3
    x = torch.randn(3, 3, 16, 16).double()
    assert (plan.apply()(x) - model(x)).abs().max() <= 1e-9 * model(x).abs().max()


def test_the_plan_prints_ranks_and_the_cap():
    text = str(plan_prune(network("cifar_resnet8"), data(16), macs="cap"))
    assert "redundancy" in text
    assert "the network's cap (tau=0.01)" in text
    assert "layer1.0.conv1" in text


def test_a_target_below_the_cap_is_refused_with_the_cap():
    model = network("cifar_resnet8")
    with pytest.raises(UsageError, match=r"macs=0\.2 is below the network's cap .*beyond_cap=True"):
        plan_prune(model, data(16), macs=0.2, tau=0.0)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("target", [0.6, "cap"])
def test_narrowed_layers_keep_a_multiple(criterion, target):
    if target == "cap" and criterion != "gradient-redundancy":
        return
    plan = plan_prune(network("cifar_resnet8"), data(16), criterion, macs=target, beyond_cap=True, multiple_of=4)
    assert all(layer.kept % 4 == 0 for layer in plan.layers)
    if target != "cap":
        assert plan.macs_after <= target * plan.macs_before
        assert any(layer.kept < layer.channels for layer in plan.layers)


def test_a_multiple_counts_the_channels_of_tied_groups():
    """An element of a grouped convolution is one channel of each of its two groups."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 4),
    ).eval()  # fmt: skip
    plan = plan_prune(model, criterion="l1", macs=0.6, multiple_of=4, example_input=torch.randn(2, 3, 9, 9))
    assert {layer.channels for layer in plan.layers} == {8}
    assert any(layer.kept < 8 for layer in plan.layers)
    assert all(plan.apply().get_submodule(layer.path).out_channels % 4 == 0 for layer in plan.layers)


def test_no_layer_narrows_where_none_holds_a_whole_step():
    example = torch.randn(1, 3, 16, 16)
    with pytest.raises(SurgeryError, match=r"cannot be reached: 1 remains .*multiple_of="):
        plan_prune(network("cifar_resnet8"), criterion="l1", macs=0.5, multiple_of=64, example_input=example)


def test_training_mode_and_frozen_parameters_survive():
    model = network("cifar_resnet8").train()
    model.conv1.weight.requires_grad_(False)
    pruned = prune(model, criterion="l1", macs=0.5, example_input=torch.randn(1, 3, 16, 16))
    assert pruned.training
    assert pruned.layer1[0].conv1.training
    assert not pruned.conv1.weight.requires_grad
    assert pruned.bn1.weight.requires_grad


@settings(deadline=None, max_examples=15)
@given(
    widths=st.lists(st.integers(2, 9), min_size=2, max_size=4),
    share=st.floats(0.3, 1.0),
    residual=st.booleans(),
    depthwise=st.booleans(),
)
def test_random_small_networks(widths, share, residual, depthwise):
    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width if depthwise else 1)
            self.norm = nn.BatchNorm2d(width)

        def forward(self, x):
            y = self.norm(self.conv(x)).relu()
            return x + y if residual else y

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, widths[0], 1)]
    for before, after in itertools.pairwise(widths):
        layers += [Block(before), nn.Conv2d(before, after, 3, stride=2, padding=1)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 4)).eval()
    x = torch.randn(2, 3, 9, 9)
    try:
        plan = plan_prune(model, criterion="l1", macs=share, example_input=x, keep_at_least=0)
    except SurgeryError as error:
        assert "cannot be reached" in str(error)  # noqa: PT017
        return
    assert plan.macs_after <= share * plan.macs_before + 1
    assert plan.difference < 1e-9
    pruned = plan.apply()
    assert pruned(x).shape == (2, 4)
    for layer in plan.layers:
        assert 1 <= layer.kept <= layer.channels
        assert pruned.get_submodule(layer.path).out_channels == layer.kept


BAD = {
    "no target": (lambda m: plan_prune(m, data(16)), UsageError, "0 targets"),
    "two": (lambda m: plan_prune(m, data(16), macs=0.5, parameters=0.5), UsageError, "2 targets"),
    "zero": (lambda m: plan_prune(m, data(16), macs=0), UsageError, "macs=0 is not allowed"),
    "above one": (lambda m: plan_prune(m, data(16), parameters=1.5), UsageError, "parameters=1.5 is not allowed"),
    "a bool": (lambda m: plan_prune(m, data(16), macs=True), UsageError, "macs=True is not allowed"),
    "nearest name": (lambda m: plan_prune(m, data(16), "gradient", macs=0.5), UsageError, "unknown criterion"),
    "cap of l1": (lambda m: plan_prune(m, data(16), "l1", macs="cap"), UsageError, "others have no cap"),
    "tau": (lambda m: plan_prune(m, data(16), macs=0.5, tau=-1), UsageError, "tau=-1"),
    "a multiple of nothing": (lambda m: plan_prune(m, data(16), macs=0.5, multiple_of=0), UsageError, "multiple_of=0"),
    "cap of latency": (lambda m: plan_prune(m, data(16), latency="cap"), UsageError, "give macs='cap'"),
    "no latency": (lambda m: plan_prune(m, data(16), latency=0.0), UsageError, "latency=0.0 is not allowed"),
    "no data": (lambda m: plan_prune(m, macs=0.5), UsageError, "needs batches="),
    "no example": (lambda m: plan_prune(small_network(), criterion="l1", macs=0.5), UsageError, "example_input="),
    "empty": (lambda m: plan_prune(m, [], macs=0.5, example_input=torch.zeros(1, 3, 16, 16)), DataError, "no images"),
    "no pairs": (
        lambda m: plan_prune(m, [torch.zeros(2, 3, 16, 16)], macs=0.5, example_input=torch.zeros(1, 3, 16, 16)),
        DataError,
        "not a pair",
    ),
    "channels": (
        lambda m: plan_prune(m, [(torch.zeros(2, 5, 16, 16), torch.zeros(2).long())], macs=0.5),
        ConvswapError,
        "torch-pruning cannot follow",
    ),
    "label": (
        lambda m: plan_prune(m, [(torch.zeros(2, 3, 16, 16), torch.tensor([0, 11]))], macs=0.5),
        DataError,
        r"label 11 is outside 0\.\.9",
    ),
    "labels": (
        lambda m: plan_prune(m, [(torch.zeros(2, 3, 16, 16), torch.tensor([0, 1, 2]))], macs=0.5),
        DataError,
        "labels of shape",
    ),
    "too little": (
        lambda m: plan_prune(m, criterion="l1", macs=0.001, example_input=torch.zeros(1, 3, 16, 16)),
        SurgeryError,
        "cannot be reached",
    ),
    "a unit": (
        lambda m: plan_prune(convswap.swap(m, "ic"), criterion="l1", macs=0.5, example_input=torch.zeros(1, 3, 16, 16)),
        SurgeryError,
        "is the unit 'ic'.*convswap.fuse",
    ),
    "where": (
        lambda m: plan_prune(m, criterion="l1", macs=0.5, where="none*", example_input=torch.zeros(1, 3, 16, 16)),
        UsageError,
        "none",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line(case):
    call, kind, words = BAD[case]
    with pytest.raises(kind, match=words) as caught:
        call(network("cifar_resnet8"))
    assert "\n" not in str(caught.value)


UNITS = [name for name in convswap.list_units() if convswap.get_unit(name).replaces == "convolution" and name != "conv"]


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_pruned_after_fuse_or_refused_by_name(name):
    torch.manual_seed(0)
    spec = convswap.get_unit(name)
    place = nn.Conv2d(8, 8, 3, padding=1, groups=8 if name == "fixed" else 1)
    body = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), place, nn.ReLU()]
    plain = nn.Sequential(*body, nn.Conv2d(8, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    x = torch.randn(2, 3, 8, 8)
    if name == "fixed":  # depthwise kernels only
        plain[3] = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    model = convswap.swap(plain.eval(), name, where="3", example_input=x)
    with pytest.raises(SurgeryError, match=f"3 is the unit '{name}', .* cannot be removed"):
        plan_prune(model, criterion="l1", macs=0.6, example_input=x)
    fused = convswap.fuse(model, x)
    if spec.fusion == "conv" or name == "ghost":
        plan = plan_prune(fused, criterion="l1", macs=0.6, example_input=x)
        assert plan.difference < 1e-9
        assert plan.apply()(x).shape == (2, 4)
    else:
        with pytest.raises(SurgeryError, match=r"^3 is .*prune"):
            plan_prune(fused, criterion="l1", macs=0.6, example_input=x)


def test_torch_pruning_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_pruning", None)
    with pytest.raises(UsageError, match=r'pip install "convswap\[prune\]"'):
        plan_prune(small_network(), criterion="l1", macs=0.5, example_input=torch.zeros(1, 3, 8, 8))


def test_loading_a_narrow_network_needs_no_torch_pruning(monkeypatch, tmp_path):
    pruned = prune(network("cifar_resnet8"), criterion="l1", macs=0.5, example_input=torch.randn(1, 3, 16, 16))
    file = convswap.save(pruned, tmp_path / "narrow.safetensors")
    monkeypatch.setitem(__import__("sys").modules, "torch_pruning", None)
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(convswap.load(file)(x), pruned.eval()(x))
