"""Methods in networks of others and in swapped ones: where they sit, what they change, and that nothing stays."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from regularizer_hosts import make_host, setting_for
from torch import Tensor, nn

import convswap
from convswap.errors import ConvswapError, SurgeryError, UsageError
from convswap.models import create_model
from convswap.regularizers import REGULARIZERS, Attachment, Regularizer, get_regularizer, overrides
from convswap.regularizers.internal.built_in import built_in
from convswap.regularizers.internal.drop_block import drop_mask
from convswap.surgery.pooling import ProbabilisticMaxPool2d

ATTACHED = [n for n, c in REGULARIZERS.items() if c.family == "internal" and overrides(c, Regularizer.attach)]
LASTING = {"shake_drop", "shake_shake", "max_pool_dropout"}
NETWORKS = ["resnet18", "resnetv2_18", "mobilenetv3_small_100", "densenet121", "circle", "ic"]
# Networks without a place for the method: the error names their class and another method.
NONE = {
    "stochastic_depth": {"densenet121"},
    "shake_drop": {"densenet121", "resnetv2_18"},
    "shake_shake": set(NETWORKS),
    "max_pool_dropout": {"mobilenetv3_small_100", "circle", "ic"},
}
SETTING = setting_for(channels=3, size=32, classes=5)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name in ("circle", "ic"):
        return convswap.swap(create_model("cifar_resnet8", num_classes=5, in_channels=3), name)
    small = {"block_config": (2, 2, 2, 2), "growth_rate": 8} if name == "densenet121" else {}
    model = create_model(name, num_classes=5, in_channels=3, **small)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)  # timm starts branches at zero, where nothing can be dropped
    return model


def attach(name: str, model: nn.Module, setting: Any = None, **options: Any) -> Attachment:
    return get_regularizer(name)(**options).attach(model, setting or setting_for())


def images(count: int = 4, channels: int = 1, size: int = 8) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def description(model: nn.Module) -> list[object]:
    """Everything by which a module may carry a trace."""
    found: list[object] = []
    for path, module in model.named_modules(remove_duplicate=False):
        hooks = [dict(v) for k, v in vars(module).items() if k.endswith("hooks")]
        found += [path, id(module), type(module), sorted(vars(module)), hooks, module.training]
    return [*found, [(name, value.clone()) for name, value in model.state_dict().items()]]


def same(first: list[object], second: list[object]) -> bool:
    values, others = first[-1], second[-1]
    assert isinstance(values, list)
    assert isinstance(others, list)
    equal = all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(values, others, strict=True))
    return first[:-1] == second[:-1] and equal


@pytest.mark.parametrize("network", NETWORKS)
def test_attached_and_gone(network: str) -> None:
    model = build(network)
    x = images(channels=3, size=32)
    for name in ATTACHED:
        model.eval()
        before, expected = description(model), model(x)
        if network in NONE.get(name, ()):
            with pytest.raises(UsageError, match=rf"regularizer '{name}': this {type(model).__name__} ") as caught:
                attach(name, model, SETTING)
            assert any(other in str(caught.value) for other in REGULARIZERS if other != name), "it names another method"
            assert "\n" not in str(caught.value)
            assert same(description(model), before)
            continue
        attached = attach(name, model, SETTING)
        assert list(model.state_dict()) == [key for key, _ in before[-1]]  # type: ignore[attr-defined]
        if name not in LASTING:
            assert torch.equal(model(x), expected), "evaluation is the identity"
        copied = copy.deepcopy(model).train()
        attached.progress(0.5)
        model.train()
        for change in (h for m in model.modules() for h in m._forward_hooks.values()):
            assert change.owner.training  # type: ignore[attr-defined]
        torch.manual_seed(0)
        regularised = model(x)
        regularised.sum().backward()
        missing = [key for key, p in model.named_parameters() if p.grad is None]
        attached.detach()
        model.load_state_dict(dict(before[-1]))  # type: ignore[call-overload]
        torch.manual_seed(0)
        plain = model(x)
        assert not torch.equal(regularised, plain), f"{name} changes the training of {network}"
        assert not missing, "gradients reach every parameter"
        assert torch.isfinite(copied(x)).all()
        model.zero_grad()
        model.load_state_dict(dict(before[-1]))  # type: ignore[call-overload]
        if name == "max_pool_dropout":
            assert any(isinstance(m, ProbabilisticMaxPool2d) for m in model.modules())
            model = build(network)
        else:
            assert same(description(model.eval()), before)


def test_places_in_a_timm_network() -> None:
    model = build("resnet18")
    places = {
        "dropout": ["layer1.0.conv2", "layer1.1.conv2", "layer2.0.conv2"],
        "stochastic_depth": ["layer1.0.bn2", "layer1.1.bn2", "layer2.0.bn2"],
        "max_dropout": ["layer1.1", "layer2.1", "layer3.1", "layer4.1"],
        "drop_block": ["layer4.0.aa", "layer4.0.bn2", "layer4.0.downsample.1", "layer4.1.aa", "layer4.1.bn2"],
        "max_pool_dropout": ["maxpool"],
    }
    for name, expected in places.items():
        attached: Any = attach(name, model, setting_for(channels=3, size=64, classes=5))
        found = attached.places[: len(expected)]
        attached.detach()
        assert found == expected, name


@pytest.mark.parametrize("name", ATTACHED)
def test_training_changes_and_evaluation_does_not(name: str) -> None:
    model, x = make_host(), images()
    expected = model.eval()(x)
    attached = attach(name, model)
    attached.progress(0.9)
    assert torch.equal(model(x), expected) == (name not in LASTING)
    model.train()
    drawn = [model(x) for _ in range(10)]
    alike = all(torch.equal(each, drawn[0]) for each in drawn)
    assert alike == (name in ("max_dropout", "target_drop")), "the others draw"
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # frozen statistics
    frozen = model(x)
    attached.detach()
    if name not in LASTING:
        assert not torch.allclose(frozen, model(x)), "it also acts where batch norms are frozen"


@pytest.mark.parametrize("name", ATTACHED)
def test_copies_and_pickles_train(name: str) -> None:
    model, x = make_host(), images()
    attached = attach(name, model)
    attached.progress(0.9)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert list(twin.state_dict()) == list(model.state_dict())
        model.eval(), twin.train()
        torch.manual_seed(0)
        first = twin(x)
        model.train(), twin.eval()
        torch.manual_seed(0)
        assert torch.equal(model(x), first), "the copy's own mode decides"
    attached.detach()


@pytest.mark.parametrize("name", ATTACHED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_memory_format_are_kept(name: str, dtype: torch.dtype) -> None:
    model = make_host().to(dtype).to(memory_format=torch.channels_last)
    attached = attach(name, model)
    attached.progress(0.9)
    x = images().to(dtype).contiguous(memory_format=torch.channels_last)
    formats = []
    handle = model.blocks.register_forward_hook(
        lambda m, a, y: formats.append((y.dtype, y.is_contiguous(memory_format=torch.channels_last)))
    )
    model.train()(x).sum().backward()
    handle.remove()
    attached.detach()
    assert formats == [(dtype, True)]


@pytest.mark.parametrize("name", ATTACHED)
def test_autocast(name: str) -> None:
    model = make_host()
    attached = attach(name, model)
    attached.progress(0.9)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.train()(images().bfloat16())
    assert logits.dtype == torch.bfloat16
    logits.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())  # type: ignore[arg-type]
    attached.detach()


@pytest.mark.parametrize("name", ATTACHED)
def test_compiled(name: str) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model, x = make_host(), images()
    attached = attach(name, model)
    evaluated = model.eval()(x)
    compiled: Any = torch.compile(model.train(), backend="aot_eager")
    rows = []
    for step in range(6):
        attached.progress(step / 6)
        rows.append(compiled(x))
        rows[-1].sum().backward()
    assert all(torch.isfinite(row).all() for row in rows)
    assert all(p.grad is not None for p in model.parameters())
    if name not in ("max_dropout", "target_drop"):
        assert not all(torch.equal(row, rows[-1]) for row in rows[-3:]), "each pass draws anew"
    assert not torch._dynamo.utils.counters["graph_break"], "nothing inside breaks the graph"
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3, "a rising rate is not compiled anew each time"
    if name in LASTING:
        model.load_state_dict(make_host().state_dict())
        torch.testing.assert_close(compiled.eval()(x), evaluated)


def test_two_methods_share_a_branch() -> None:
    """DropBlock drops the shortcut by a term at the end of the branch, which stochastic depth must not drop."""
    model, x = make_host().double(), images().double()
    block = model.blocks[0]
    entered: list[Tensor] = []
    block.register_forward_pre_hook(lambda m, a: entered.append(a[0].detach()))
    first = attach("drop_block", model, rate=0.5, block_size=3, linear=False)
    second = attach("stochastic_depth", model, survival=1e-9, mode="batch")
    torch.manual_seed(0)
    model.train()
    outputs: list[Tensor] = []
    block.register_forward_hook(lambda m, a, y: outputs.append(y.detach()))
    for _ in range(200):
        model(x)
        ratio = (outputs[-1] / entered[-1])[entered[-1] > 1e-3]
        if len(ratio.round(decimals=6).unique()) == 2:
            break
    zero, scaled = ratio.round(decimals=6).unique().tolist()
    assert zero == 0, "squares of the shortcut are dropped"
    assert scaled > 1, "what stays is scaled up: the branch is gone and the shortcut is whole"
    second.detach(), first.detach()


def test_the_shortcut_is_dropped_as_the_paper_says() -> None:
    """relu(m x + m' F(x)), with masks of their own."""
    model = make_host().double()
    block = model.blocks[1]
    attached: Any = attach("drop_block", model, rate=0.4, block_size=3, linear=False)
    for change in attached.changes:
        change.now.fill_(0.0)
    (shortcut,) = [c for c in attached.changes if type(c).__name__ == "DropShortcut" and c.owner is block]
    x = torch.rand(2, 8, 6, 6, dtype=torch.float64)
    model.train()
    branch = block.branches[0](x)
    shortcut.now.fill_(0.4)
    attached.changes.remove(shortcut)
    torch.manual_seed(3)
    y = block(x)
    torch.manual_seed(3)
    for _ in range(2):
        torch.rand(2, 8, 4, 4)  # the corners of the branch's own two masks
    mask = drop_mask(x, 0.4, 3)
    torch.testing.assert_close(y, (mask * x + branch).relu())
    assert (mask == 0).any()
    attached.detach()


def test_drop_block_follows_the_schedule_of_the_paper() -> None:
    model = create_model("cifar_resnet20", num_classes=5, in_channels=3)
    attached: Any = attach("drop_block", model, SETTING, rate=0.2)
    assert {change.rate for change in attached.changes} == {0.2, 0.05}, "a quarter before the last stage"
    assert {float(change.now) for change in attached.changes} == {0.0}
    attached.progress(0.5)
    assert {round(float(change.now), 6) for change in attached.changes} == {0.1, 0.025}
    assert not [path for path in attached.places if path.startswith(("conv1", "layer1"))]
    assert attached.places.count("layer3.1.bn2") == 2, "the branch and the identity shortcut"
    attached.detach()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dropout", {"where": "layer9.*"}, "layer9"),
        ("dropout", {"rate": 1.0}, r"rate=1\.0"),
        ("dropout", {"rate": 0}, "rate=0"),
        ("spatial_dropout", {"rate": "a"}, "rate='a'"),
        ("max_dropout", {"inside": "blocks"}, "inside='blocks'"),
        ("max_dropout", {"where": "nothing"}, "nothing"),
        ("drop_block", {"block_size": 4}, "block_size=4"),
        ("drop_block", {"linear": 1}, "linear=1"),
        ("drop_block", {"stages": 0}, "stages=0"),
        ("target_drop", {"block_size": 2}, "block_size=2"),
        ("target_drop", {"reweight": "yes"}, "reweight='yes'"),
        ("target_drop", {"rate": 0.01}, "no stage of 101 channels"),
        ("stochastic_depth", {"mode": "image"}, "mode='image'"),
        ("stochastic_depth", {"survival": 1.5}, "survival"),
        ("shake_drop", {"gate": "row"}, "gate='row'"),
        ("shake_shake", {"per": "pixel"}, "per='pixel'"),
        ("max_pool_dropout", {"evaluation": "mean"}, "evaluation='mean'"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        attach(name, make_host(), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ATTACHED)
def test_networks_that_nothing_can_enter(name: str) -> None:
    with pytest.raises(SurgeryError, match="wrapped"):
        attach(name, nn.Sequential(nn.DataParallel(make_host())))
    with pytest.raises(SurgeryError, match="does not accept"):
        attach(name, make_host(channels=7))


def test_functional_branches_are_said() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(x).relu()

    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), Functional(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UsageError, match="its branch ends in relu, outside of any module"):
        attach("stochastic_depth", model)


def test_a_selection_of_places() -> None:
    model = create_model("cifar_resnet20", num_classes=5, in_channels=3)
    attached: Any = attach("dropout", model, SETTING, where="layer3.*conv1")
    assert attached.places == ["layer3.0.conv1", "layer3.1.conv1", "layer3.2.conv1"]
    attached.detach()
    attached = attach("max_dropout", model, SETTING, where="layer2*")
    assert attached.places == ["layer2.2"]
    attached.detach()
    attached = attach("max_dropout", model, SETTING, inside="branches")
    assert attached.places[0] == "layer1.0.conv2"
    attached.detach()


def test_networks_without_blocks() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    plain.append(nn.Linear(4, 3))
    assert attach("dropout", plain).places == ["5"]  # type: ignore[attr-defined]
    assert attach("spatial_dropout", plain).places == ["2"]  # type: ignore[attr-defined]
    with pytest.raises(ConvswapError, match="Sequential has no residual block"):
        attach("stochastic_depth", plain)


def test_a_saved_network_keeps_probabilistic_pooling(tmp_path) -> None:
    model = create_model("resnet18", num_classes=5, in_channels=3)
    x = images(channels=3, size=32)
    attached = attach("max_pool_dropout", model, SETTING, rate=0.4)
    evaluated = model.eval()(x)
    attached.progress(0.0)
    attached.detach()
    torch.testing.assert_close(model(x), evaluated)
    loaded = convswap.load(convswap.save(model, tmp_path / "model.safetensors"))
    assert torch.equal(loaded(x), model(x))
    fused = convswap.fuse(model, x)
    torch.testing.assert_close(fused(x), evaluated, rtol=1e-3, atol=1e-4)


def test_what_a_network_brings_along_stays_and_is_said() -> None:
    model = nn.Sequential(make_host(), nn.Dropout(0.3))
    with pytest.warns(UserWarning, match=r"Sequential has regularisation of its own, which stays: 1 Dropout \(0\.3\)"):
        attach("dropout", model).detach()
    assert model[1].p == 0.3
    paths = create_model("resnet18", num_classes=3, in_channels=3, drop_path_rate=0.2)
    assert built_in(paths) == "7 DropPath (0.0286 to 0.2)"
