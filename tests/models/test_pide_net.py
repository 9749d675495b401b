"""The networks of Hamiltonian and nonlocal blocks against the official counts and a small official network."""

import pytest
import timm
import torch
from torch import nn

import convswap
import convswap.models.pide_net as module
from convswap.models import create_model
from convswap.models.pide_net import PIDENet
from convswap.units import HamiltonianBlock, PIDEBlock

NAMES = sorted(module._ARGUMENTS)
COUNTS = {  # size, classes: trainable parameters without and with nonlocal blocks, measured from the official code
    ("cifar6", 10): (508_954, 563_402),
    ("cifar6", 100): (670_324, 724_772),
    ("cifar18", 10): (1_785_802, 1_851_882),
    ("cifar18", 100): (1_970_212, 2_036_292),
    ("stl10", 10): (501_114, 555_562),
}
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def count(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(("size", "classes"), COUNTS)
def test_counts_to_the_digit(size, classes):
    for operator, kernel in module._OPERATORS.items():
        with torch.device("meta"):
            model = timm.create_model(f"{operator}_{size}", num_classes=classes)
        assert count(model) == COUNTS[size, classes][kernel is not None]
        kernels = {block.kernel for block in model.modules() if isinstance(block, PIDEBlock)}
        assert kernels == (set() if kernel is None else {kernel})


@pytest.mark.parametrize("name", NAMES)
def test_registered_with_timm(name):
    assert name in timm.list_models()
    side = 96 if name.endswith("stl10") else 32
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7, in_chans=1).eval()
        features = model.forward_features(torch.empty(2, 1, side, side))
        assert model(torch.empty(2, 1, side, side)).shape == (2, 7)
    assert features.shape == (2, model.num_features, side // 4, side // 4)
    assert model.default_cfg["input_size"] == (3, side, side)
    assert model.get_classifier() is model.classifier
    assert model.classifier.in_features == model.head_hidden_size
    assert hasattr(module, name)


@pytest.mark.parametrize(("name", "position"), [("pide_cifar6", 2), ("pide_cifar18", 17), ("pide_stl10", 2)])
def test_where_the_nonlocal_block_stands(name, position):
    with torch.device("meta"):
        model = timm.create_model(name)
    for unit in model.units:
        assert [index for index, block in enumerate(unit) if isinstance(block, PIDEBlock)] == [position]
        assert sum(isinstance(block, HamiltonianBlock) for block in unit) == len(unit) - 1


def renamed(state):
    """The reference's names in ours; its classifier reads the pooled map channel last, ours channel first."""
    ours = {}
    for key, value in state.items():
        path, _, leaf = key.rpartition(".")
        parts = path.split(".")
        if parts[0] == "units":
            inner = parts[4] if parts[2] == "blocks" else ".".join(parts[3:])
            inner = inner.replace("conv_theta", "theta").replace("conv_phi", "phi")
            inner = inner.replace("W_layers.0", "stages.0.0").replace("W_layers.1", "stages.1.0")
            inner = inner.replace("bn_layers.0", "stages.0.1").replace("bn_layers.1", "stages.1.1")
            index = 2 if parts[2] == "nl_block" else int(parts[3]) + (int(parts[3]) >= 2)
            path = f"units.{parts[1]}.{index}.{inner}"
        path = {"opening_conv": "stem.conv", "bn": "stem.norm"}.get(path, path)
        path = path.replace("betw_conv.", "transitions.") + (".1" if path.startswith("betw_conv.") else "")
        ours[f"{path}.{NORM.get(leaf, leaf.replace('kernel', 'weight'))}"] = value.double()
    weight = ours["classifier.weight"]
    ours["classifier.weight"] = weight.view(len(weight), 2, 2, -1).permute(0, 3, 1, 2).flatten(1)
    return ours


def test_golden(golden):
    reference = golden("pide")["case_model_small"]
    config = reference["config"]
    model = PIDENet(config["CHANNELS"], config["num_blocks"], kernel="inverse_fractional", grid=2).double()
    missing, unexpected = model.load_state_dict(renamed(reference["state_dict"]), strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    x, expected = reference["input"].double(), reference["output"].double()
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), expected, rtol=1e-6, atol=1e-6)
        fused = convswap.fuse(model, x)
        torch.testing.assert_close(fused(x), expected, rtol=1e-6, atol=1e-6)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fused.modules())


def test_any_size_and_an_unpooled_network():
    model = create_model("pide_cifar6", num_classes=4).eval()
    for size in ((32, 32), (19, 33), (5, 3), (1, 1)):
        assert model(torch.randn(2, 3, *size)).shape == (2, 4)
    model.reset_classifier(0, "")
    assert model(torch.randn(2, 3, 16, 12)).shape == (2, 112, 4, 3)
    with pytest.raises(ValueError, match="global_pool='avg'"):
        model.reset_classifier(3)


@pytest.mark.parametrize("name", ["hamiltonian_cifar6", "pide_cifar6", "pide_fractional_cifar6"])
def test_trains_saves_and_starts_near_the_identity(name, tmp_path):
    torch.manual_seed(0)
    model = create_model(name, num_classes=3)
    x = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        before = model.stem(x)
        assert (model.units[0](before) - before).norm() < before.norm()
    nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 2, 0])).backward()
    for path, parameter in model.named_parameters():
        # BatchNorm takes the bias before it away.
        assert parameter.grad is not None, path
        assert torch.isfinite(parameter.grad).all(), path
    convswap.save(model, tmp_path / "model.safetensors")
    again = convswap.load(tmp_path / "model.safetensors")
    torch.testing.assert_close(again.eval()(x), model.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"widths": (8, 16)}, "widths=.*three units"),
        ({"widths": 32}, "widths=32 .*three units"),
        ({"widths": (8.0, 16, 32)}, "widths=.*three units"),
        ({"widths": (0, 16, 32)}, "widths=.*three units"),
        ({"widths": (8, 15, 16)}, "even number, not 15"),
        ({"blocks": 0}, "blocks=0"),
        ({"grid": 1.5}, "grid=1.5"),
        ({"kernel": "cauchy"}, "kernel='cauchy'"),
        ({"form": "midpoint"}, "form='midpoint'"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        PIDENet(**arguments)
