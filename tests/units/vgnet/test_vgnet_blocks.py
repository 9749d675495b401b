"""VGNet's two blocks against loops written from the paper's formulas and against the authors' tensors."""

import math

import pytest
import torch
from torch import nn

import convswap
from convswap.units import DownsamplingBlock, FixedConv2d, HalfIdentityBlock, Place
from convswap.units.vgnet.parts import gate_channels

EPS = 1e-5


def act(value, activation):
    return max(value, 0.0) if activation == "relu" else value / (1 + math.exp(-value))


def normalised(value, norm, channel):
    centred = (value - norm.running_mean[channel].item()) / math.sqrt(norm.running_var[channel].item() + EPS)
    return centred * norm.weight[channel].item() + norm.bias[channel].item()


def depthwise_naive(x, weight, stride):
    n, channels, height, width = x.shape
    y = torch.zeros(n, channels, -(-height // stride), -(-width // stride), dtype=x.dtype)
    for b, c, i, j in torch.cartesian_prod(*(torch.arange(d) for d in y.shape)).tolist():
        for p in range(3):
            for q in range(3):
                row, column = stride * i + p - 1, stride * j + q - 1
                if 0 <= row < height and 0 <= column < width:
                    y[b, c, i, j] += weight[c, 0, p, q] * x[b, c, row, column]
    return y


def pointwise_naive(x, part, activation):
    """Convolution, then activation, then BatchNorm, then the gate."""
    weight = part.conv.weight.detach()[:, :, 0, 0]
    y = torch.einsum("oc,nchw->nohw", weight, x)
    for b, c, i, j in torch.cartesian_prod(*(torch.arange(d) for d in y.shape)).tolist():
        y[b, c, i, j] = normalised(act(float(y[b, c, i, j]), activation), part.norm, c)
    if isinstance(part.gate, nn.Identity):
        return y
    reduce, expand = part.gate.reduce, part.gate.expand
    for b in range(len(y)):
        mean = y[b].sum((1, 2)) / y[0, 0].numel()
        hidden = [
            act(float(w[:, 0, 0] @ mean + t), activation)
            for w, t in zip(reduce.weight.detach(), reduce.bias.detach(), strict=True)
        ]
        for c in range(y.shape[1]):
            gate = expand.bias[c].item() + sum(
                w.item() * h for w, h in zip(expand.weight[c, :, 0, 0], hidden, strict=True)
            )
            y[b, c] *= 1 / (1 + math.exp(-gate))
    return y


@torch.no_grad()
def randomised(module):
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.running_mean.normal_(0, 0.3)
            child.running_var.uniform_(0.5, 1.5)
            child.weight.uniform_(-1.5, 1.5)
            child.bias.normal_(0, 0.3)
    return module.eval()


HALF = [
    {},
    {"activation": "silu", "squeeze_excite": 0.25},
    {"depthwise": "edge"},
    {"depthwise": "edge_gaussian", "squeeze_excite": 0.5},
    {"depthwise": "gaussian", "activation": "silu"},
]


@pytest.mark.parametrize("options", HALF, ids=str)
def test_half_identity_is_the_formula_also_fused_and_dense(options):
    torch.manual_seed(0)
    block = randomised(HalfIdentityBlock(18, 18, **options, dtype=torch.float64))
    u, v = torch.randn(2, 2, 9, 4, 5, dtype=torch.float64)
    activation = options.get("activation", "relu")
    filtered = depthwise_naive(v, block.depthwise.weight.detach(), 1)
    if "depthwise" in options:
        for c in range(9):
            filtered[:, c].apply_(lambda value, c=c: normalised(value, block.depthwise_norm, c))
    expected = pointwise_naive(torch.cat([u, filtered], 1), block.pointwise, activation)
    fused = block.fuse()
    for module in (block, fused):
        left, right = module.forward_pair(u, v)
        assert left is v
        torch.testing.assert_close(right, expected, rtol=0, atol=1e-11)
        torch.testing.assert_close(right, block.forward_pair(u, v)[1], rtol=0, atol=1e-11)
        torch.testing.assert_close(module(torch.cat([u, v], 1)), torch.cat([v, right], 1), rtol=0, atol=0)
    for module in (block, fused):
        dense = module.to_dense_conv()
        assert (dense.kernel_size, dense.groups, dense.weight.shape) == ((3, 3), 1, (9, 18, 3, 3))
        again = module.pointwise.rest(dense(torch.cat([u, v], 1)))
        torch.testing.assert_close(again, block.forward_pair(u, v)[1], rtol=0, atol=1e-12)


DOWN = [
    (6, 12, 2, {}),  # k = in
    (8, 12, 2, {"method": "learnable"}),  # k = out / 2
    (4, 11, 2, {"bank": "gaussian", "activation": "silu", "squeeze_excite": 0.25}),  # out > 2 in
    (9, 6, 2, {}),  # k = 0
    (4, 8, 1, {}),  # learnable at stride 1
    (4, 4, 3, {"method": "maxpool"}),
]


@pytest.mark.parametrize(("inputs", "outputs", "stride", "options"), DOWN, ids=str)
def test_downsampling_is_the_formula_for_every_rule_of_channels(inputs, outputs, stride, options):
    torch.manual_seed(1)
    block = randomised(DownsamplingBlock(inputs, outputs, stride, **options, dtype=torch.float64))
    x = torch.randn(2, inputs, 7, 6, dtype=torch.float64)
    if options.get("method") == "maxpool":
        padded = torch.full((2, inputs, 9, 8), -math.inf, dtype=torch.float64)
        padded[:, :, 1:-1, 1:-1] = x
        z = padded.unfold(2, 3, stride).unfold(3, 3, stride).amax((4, 5))
    else:
        z = depthwise_naive(x, block.downsample.weight.detach(), stride)
    k = 0 if inputs > outputs else min(outputs // 2, inputs)
    v = pointwise_naive(z, block.pointwise, options.get("activation", "relu"))
    assert v.shape[1] == outputs - k
    expected = torch.cat([z[:, inputs - k :], v], 1)
    for module in (block, block.fuse()):
        torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-11)
        pair = module.forward_pair(x)
        torch.testing.assert_close(torch.cat(pair, 1), expected, rtol=0, atol=1e-11)
        assert [half.shape[1] for half in pair] == [-(-outputs // 2), outputs // 2]
    constant = options.get("method", "blur") == "blur" and stride > 1
    assert isinstance(block.downsample, FixedConv2d) == constant
    assert type(block.fuse().downsample) in (nn.Conv2d, nn.MaxPool2d)


def test_parameters_of_the_note():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    for channels in (16, 28, 112):
        half = channels // 2
        assert count(HalfIdentityBlock(channels, channels)) == 9 * half + channels * half + 2 * half
    assert count(HalfIdentityBlock(16, 16)) == 216
    assert count(HalfIdentityBlock(16, 16, depthwise="edge")) == 216 - 9 * 8 + 2 * 8
    assert count(DownsamplingBlock(8, 16, 2)) == 8 * 8 + 2 * 8
    assert count(DownsamplingBlock(8, 16, 2, method="learnable")) == 9 * 8 + 8 * 8 + 2 * 8
    assert [gate_channels(c, 0.25) for c in (8, 28, 32, 44, 56, 184, 272)] == [8, 8, 8, 16, 16, 48, 72]


def names(key, gated):
    """The authors' parameter name as ours."""
    key = key.replace("half3x3.0.", "depthwise.").replace("half3x3.1.", "depthwise_norm.")
    key = key.replace("half3x3.", "depthwise.")
    if gated:
        key = key.replace("conv1x1.1.", "pointwise.gate.").replace("conv1x1.0.", "conv1x1.")
    return key.replace("conv1x1.0.", "pointwise.conv.").replace("conv1x1.2.", "pointwise.norm.")


def check_golden(block, reference, gated, run):
    """To 1e-6 with our exact constants, to 1e-9 with the stored ones, which were formed in float32."""
    state = {names(key, gated): value for key, value in reference["state_dict"].items()}
    block.load_state_dict(state, strict=True)
    constants = [path for path, module in block.named_modules() if isinstance(module, FixedConv2d)]
    ours = 1e-6 if constants else 1e-9
    for module in (block.eval(), block.fuse()):
        torch.testing.assert_close(list(run(module)), reference["output"], rtol=0, atol=ours)
    for path in constants:
        block.get_submodule(path).weight = state[f"{path}.weight"]
    torch.testing.assert_close(list(run(block)), reference["output"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("case_halfidentity_32_se", {"activation": "silu", "squeeze_excite": 0.25}),
        ("case_halfidentity2021_random", {}),
        ("case_halfidentity2021_edge_gassian", {"depthwise": "edge_gaussian"}),
    ],
)
def test_half_identity_golden(golden, case, options):
    reference = golden("vgnet")[case]
    channels = 2 * reference["input"][0].shape[1]
    block = HalfIdentityBlock(channels, channels, **options, dtype=torch.float64)
    check_golden(block, reference, "squeeze_excite" in options, lambda m: m.forward_pair(*reference["input"]))


@pytest.mark.parametrize("name", ["gt2", "lt2", "x2", "x2_dw", "x2_se"])
def test_downsampling_golden(golden, name):
    reference = golden("vgnet")[f"case_downsampling_{name}"]
    config = reference["config"]
    block = DownsamplingBlock(
        config["inp"],
        config["oup"],
        config["stride"],
        method={"blur": "blur", "dwconv": "learnable"}[config["method"]],
        bank="gaussian",
        activation=config["act"],
        squeeze_excite=config["se_ratio"],
        dtype=torch.float64,
    )
    check_golden(block, reference, config["se_ratio"] > 0, lambda m: m.forward_pair(reference["input"]))


def test_fusing_folds_what_folds():
    block = randomised(HalfIdentityBlock(8, 8, depthwise="edge"))
    fused = block.fuse()
    assert type(fused.depthwise) is nn.Conv2d
    assert fused.depthwise.bias is None
    assert isinstance(fused.depthwise_norm, nn.Identity)
    assert fused.pointwise.conv.bias is not None
    assert isinstance(fused.pointwise.norm, nn.BatchNorm2d)
    assert block.pointwise.conv.bias is None
    frozen = block.requires_grad_(False).fuse()
    assert not any(p.requires_grad for p in frozen.parameters())


def test_blocks_keep_channels_last():
    for block in (HalfIdentityBlock(8, 8), DownsamplingBlock(6, 12, 2), DownsamplingBlock(4, 12, 2)):
        block.to(memory_format=torch.channels_last)
        x = torch.randn(2, block.in_channels, 8, 6).to(memory_format=torch.channels_last)
        assert block(x).is_contiguous(memory_format=torch.channels_last)


def test_they_stand_in_a_residual_network():
    model = convswap.create_model("cifar_resnet20", num_classes=10)
    x = torch.zeros(2, 3, 32, 32)
    same = convswap.plan_swap(model, "half_identity", example_input=x, depthwise="edge_gaussian")
    assert len(same.replacements) == 7  # all blocks but the two that stride
    both = convswap.swap(same.apply(), "vgnet_downsampling", example_input=x)
    blocks = [type(block) for layer in (both.layer1, both.layer2, both.layer3) for block in layer]
    assert blocks == 3 * [HalfIdentityBlock] + 2 * [DownsamplingBlock, HalfIdentityBlock, HalfIdentityBlock]
    assert both(x).shape == (2, 10)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (Place(8, 8, 2), "stride 1, not 2"),
        (Place(8, 16), "as many output as input channels, not 8->16"),
        (Place(7, 7), "even number, not 7"),
    ],
)
def test_half_identity_says_what_it_cannot_replace(place, words):
    assert words in HalfIdentityBlock.supports(place)
    with pytest.raises(ValueError, match=words):
        HalfIdentityBlock(place.in_channels, place.out_channels, place.stride)


@pytest.mark.parametrize(
    ("block", "options", "words"),
    [
        (HalfIdentityBlock, {"depthwise": "blur"}, "depthwise='blur'.*'edge_gaussian'"),
        (HalfIdentityBlock, {"activation": "gelu"}, "activation='gelu'.*'relu', 'silu'"),
        (HalfIdentityBlock, {"squeeze_excite": 1.5}, "squeeze_excite=1.5.*0 .*to 1"),
        (HalfIdentityBlock, {"squeeze_excite": True}, "squeeze_excite=True"),
        (DownsamplingBlock, {"method": "dwconv"}, "method='dwconv'.*'blur', 'learnable', 'maxpool'"),
        (DownsamplingBlock, {"bank": "edge"}, "bank='edge'.*'gaussian_signed', 'gaussian'"),
        (DownsamplingBlock, {"activation": None}, "activation=None"),
    ],
)
def test_wrong_options_are_named(block, options, words):
    with pytest.raises(ValueError, match=words):
        block(8, 8, **options)
