"""VGNet against the authors' counts and tensors, and constant kernels in the depthwise layers of other networks."""

import pytest
import timm
import torch
from torch import nn

import convswap
import convswap.models.vgnet as module
from convswap.models import create_model
from convswap.models.vgnet import SIZES, SharedDepthwiseConv2d, VGNet, official_state
from convswap.surgery.macs import count_macs
from convswap.units import FixedConv2d, HalfIdentityBlock

NAMES = sorted(module._ARGUMENTS)
TOTALS = {  # name: trainable parameters, constants of the kernels (counted by the authors' code of 2021)
    "vgnetc_1_5mp": (1_506_344, 0),
    "vgnetg_1_5mp": (1_502_024, 1_506_344 - 1_502_024),
    "vgnetf_1_5mp": (1_485_896, 1_516_136 - 1_485_896),
    "vgnete_1_5mp": (1_485_896, 1_516_136 - 1_485_896),
    "vgnetg_1_0mp": (997_358, 1_001_138 - 997_358),
    "vgnetg_1_0mp_se": (1_143_190, 1_146_970 - 1_143_190),
    "vgnetg_2_0mp": (2_006_380, 2_012_212 - 2_006_380),
    "vgnetg_2_5mp": (2_492_756, 2_499_092 - 2_492_756),
}


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", TOTALS)
def test_counts_to_the_digit_at_the_time_of_the_paper(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    constants = sum(m.weight.numel() for m in model.modules() if isinstance(m, FixedConv2d))
    assert (count(model), constants) == TOTALS[name]
    assert all(p.requires_grad for p in model.parameters())


def test_variants_differ_by_what_the_note_says():
    with torch.device("meta"):
        sizes = {name: count(timm.create_model(name)) for name in NAMES}
    for size, (channels, _) in SIZES.items():
        learned = 9 * sum(channels[:4])  # of the downsampling blocks
        width = channels[4]
        if f"vgnetc_{size}" in sizes:
            assert sizes[f"vgnetc_{size}"] - sizes[f"vgnetg_{size}"] == learned
        assert sizes[f"vgnetg_{size}_2022"] - sizes[f"vgnetg_{size}"] == 9 * width - 9 * width // 8
    assert sizes["vgnetc_1_0mp_2022"] - sizes["vgnetg_1_0mp_2022"] == 9 * (28 + 56 + 112 + 224)


@pytest.mark.parametrize("name", NAMES)
def test_registered_with_timm(name):
    assert name in timm.list_models("*vgnet*")
    side = 32 if name.startswith("cifar_") else 64
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7, in_chans=1).eval()
        image = torch.empty(2, 1, side, side)
        assert model(image).shape == (2, 7)
        features = model.forward_features(image)
    reduction = 8 if name.startswith("cifar_") else 32
    assert features.shape == (2, model.num_features, side // reduction, side // reduction)
    assert [info["reduction"] for info in model.feature_info][-1] == reduction
    assert model.drop.p == (0.2 if name.endswith("_2022") else 0.0)
    assert hasattr(module, name)


def test_thumbnails_learn_the_filter_that_does_not_stride():
    model = create_model("vgnetg_1_0mp_2022", num_classes=100, thumbnail=True)
    assert type(model.stage1.down.downsample) is nn.Conv2d
    assert isinstance(model.stage2.down.downsample, FixedConv2d)
    assert count(model) == 668_408
    assert count_macs(model, torch.zeros(1, 3, 32, 32)) == 43_733_056


GOLDEN = {
    "case_net_small": {"activation": "silu", "bank": "gaussian", "shared": 1, "drop_rate": 0.2},
    "case_net_small_se": {
        "activation": "silu",
        "bank": "gaussian",
        "shared": 1,
        "drop_rate": 0.2,
        "squeeze_excite": 0.25,
    },
    "case_net2021_edge_gassian": {"depthwise": "edge_gaussian"},
}


def check_network(reference, options):
    config = reference["config"]
    model = VGNet(config["channels"], config["layers"], num_classes=10, **options).double().eval()
    state = official_state(reference["state_dict"], model)
    model.load_state_dict(state, strict=True)
    with torch.no_grad():
        ours = model(reference["input"])
        scale = reference["output"].abs().max()
        assert ((ours - reference["output"]).abs().max() / scale) < 1e-6
        fused = convswap.fuse(model, reference["input"])
        torch.testing.assert_close(fused(reference["input"]), ours, rtol=1e-9, atol=1e-9)
        for path, unit in model.named_modules():
            if isinstance(unit, FixedConv2d):  # the reference formed its constants in float32
                unit.weight = state[f"{path}.weight"]
        torch.testing.assert_close(model(reference["input"]), reference["output"], rtol=1e-9, atol=1e-9)
    return fused


@pytest.mark.parametrize("case", ["case_net_small", "case_net_small_se"])
def test_golden(golden, case):
    fused = check_network(golden("vgnet")[case], GOLDEN[case])
    assert not any(isinstance(unit, FixedConv2d) for unit in fused.modules())


def test_golden_of_the_edge_network(shared):
    """Read from beside the checkout: the file is large."""
    case = "case_net2021_edge_gassian"
    reference = torch.load(shared / "golden" / "vgnet" / f"{case}.pt", weights_only=True)
    fused = check_network(reference, GOLDEN[case])
    norms = sum(isinstance(unit, nn.BatchNorm2d) for unit in fused.modules())
    blocks = sum(isinstance(unit, HalfIdentityBlock) for unit in fused.modules())
    assert norms == 1 + 4 + blocks + 1, "only the BatchNorms behind an activation are left"


@pytest.mark.parametrize("shares", [1, 2, 8])
def test_shared_kernels_are_each_chunks_own(shares):
    layer = SharedDepthwiseConv2d(16, shares=shares, dtype=torch.float64)
    x = torch.randn(2, 16, 5, 6, dtype=torch.float64)
    chunks = [
        nn.functional.conv2d(chunk, layer.weight, padding=1, groups=16 // shares) for chunk in x.chunk(shares, dim=1)
    ]
    for given in (layer, layer.fuse()):
        torch.testing.assert_close(given(x), torch.cat(chunks, 1), rtol=0, atol=1e-12)
    assert layer.weight.shape == (16 // shares, 1, 3, 3)


def test_trains_and_saves(tmp_path):
    model = create_model("cifar_vgnetg_1_0mp", num_classes=3)
    x = torch.randn(2, 3, 16, 16)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    convswap.save(model, tmp_path / "model.safetensors")
    again = convswap.load(tmp_path / "model.safetensors")
    torch.testing.assert_close(again.eval()(x), model.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"channels": (8, 16, 32, 64)}, "channels=.*four numbers"),
        ({"depths": (1, 1, 1, 0)}, "depths=.*at least 1"),
        ({"channels": (8, 16, 32, 65, 96)}, "even number, not 65"),
        ({"shared": 7}, "shares=7.*channels=96"),
        ({"depthwise": "sobel"}, "depthwise='sobel'"),
        ({"downsampling": "maxpool"}, "downsampling='maxpool'.*'blur', 'learnable'"),
        ({"thumbnail": "yes"}, "thumbnail='yes'"),
        ({"global_pool": ""}, "num_classes=1000 needs global_pool='avg'"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        VGNet(**({"channels": (8, 16, 32, 72, 96), "depths": (2, 2, 2, 2)} | arguments))
