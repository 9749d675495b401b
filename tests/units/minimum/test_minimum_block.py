"""The block of Min-Nets against the official tensors and naive loops; its places, its shortcut, its fused form."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from test_minimum import naive_core, naive_norm, randomised
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import convswap
from convswap.errors import UsageError
from convswap.units import FusedMinimumBlock, MinimumBlock, Place, ResidualAdapter, get_unit

COMBINE = {"MinBlock": "min", "FPBlockJOV": "product", "AbsReLUBlock": "abs_relu", "LogFPL1DWR0U1": "log"}
CASES = [
    "case_minblock_16_16_q2_s1",
    "case_minblock_24_12_q2_use1x1",
    "case_fpblock_16_32_q2_s2",
    "case_absrelu_16_16_q2_s1",
    "case_logfp_16_16_q2",
]
NAMES = {  # the reference's names, without their common prefix
    "upper.0": "core.expand",
    "upper.1": "core.expand_norm",
    "left_dw.0": "core.left",
    "right_dw.0": "core.right",
    "left_dw.dw_conv": "core.left",
    "right_dw.dw_conv": "core.right",
    "bn": "core.log_norm",
    "lower.0": "core.project",
    "lower.1": "norm",
    "conv_for_res": "shortcut.conv",
}
PLACES = [(3, 4, 1), (4, 4, 1), (3, 8, 2), (6, 4, 2), (6, 4, 1), (4, 4, 2)]
VARIANTS = [{}, *get_unit("minimum_block").variants]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def renamed(state: dict) -> dict:
    """The reference's keys as ours."""
    result = {}
    for key, value in state.items():
        owner, _, leaf = key.removeprefix("block_with_shortcut.").removeprefix("block.").rpartition(".")
        result[f"{NAMES[owner]}.{leaf}"] = value
    return result


@pytest.mark.parametrize("name", CASES)
def test_golden(golden, name):
    reference = golden("minnet")[name]
    config = reference["config"]
    block = MinimumBlock(
        config["in_dim"],
        config["out_dim"],
        config["stride"],
        combine=COMBINE[config["cls"]],
        expansion=config["q"],
        kernel_size=config["k"],
        dtype=torch.float64,
    )
    block.load_state_dict(renamed(reference["state_dict"]), strict=True)
    # the reference's Log-FP class is the branch without a shortcut
    run = (lambda m, x: m.branch(x)) if block.core.combine == "log" else (lambda m, x: m(x))
    with torch.no_grad():
        output = run(block.eval(), reference["input"])
        torch.testing.assert_close(output, reference["output"], rtol=1e-9, atol=1e-9)
        fused = block.fuse()(reference["input"])
        torch.testing.assert_close(fused, block(reference["input"]), rtol=1e-10, atol=1e-10)

    image = reference["input"].clone().requires_grad_()
    output = run(block.train(), image)
    (output * reference["loss_weight"]).sum().backward()
    torch.testing.assert_close(output, reference["output_train"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(image.grad, reference["grad_input_train"], rtol=1e-9, atol=1e-9)
    grads = {key: parameter.grad for key, parameter in block.named_parameters()}
    torch.testing.assert_close(grads, renamed(reference["grad_params_train"]), rtol=1e-9, atol=1e-9)


def naive_shortcut(shortcut: ResidualAdapter, x: torch.Tensor, out: int, stride: int) -> torch.Tensor:
    n, channels, height, width = x.shape
    rows, columns = -(-height // stride), -(-width // stride)
    y = torch.zeros(n, max(channels, out), rows, columns, dtype=x.dtype)
    for r in range(rows):
        for c in range(columns):
            window = x[:, :, r * stride : (r + 1) * stride, c * stride : (c + 1) * stride]
            y[:, :channels, r, c] = window.sum((2, 3)) / (window.shape[2] * window.shape[3])
    if out < channels:
        y = torch.einsum("oi,nihw->nohw", shortcut.conv.weight[:, :, 0, 0], y) + shortcut.conv.bias[:, None, None]
    return y


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("size", [(7, 9), (4, 5), (1, 1), (2, 1)])
def test_against_a_loop_in_odd_sizes(place, size):
    block = randomised(MinimumBlock(*place, dtype=torch.float64))
    x = torch.randn(2, place[0], *size, dtype=torch.float64)
    with torch.no_grad():
        branch = naive_norm(block.norm, naive_core(block.core, x)).clamp(min=0)
        expected = branch + naive_shortcut(block.shortcut, x, place[1], place[2])
        output = block(x)
        torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(block.fuse()(x), expected, rtol=1e-10, atol=1e-10)
    assert output.shape == (2, place[1], -(-size[0] // place[2]), -(-size[1] // place[2]))


def test_the_official_form_as_one_grouped_convolution():
    """Both filters interleaved in one convolution of F groups, then pairs: the same function."""
    block = randomised(MinimumBlock(4, 6, dtype=torch.float64))
    core, x = block.core, torch.randn(2, 4, 7, 6, dtype=torch.float64)
    u = core.expand_norm(core.expand(x)).relu()
    weight = torch.stack([core.left.weight, core.right.weight], 1).flatten(0, 1)
    pairs = nn.functional.conv2d(u, weight, padding=1, groups=12)
    m = nn.functional.instance_norm(pairs).unflatten(1, (12, 2)).amin(2).relu()
    torch.testing.assert_close(block.norm(core.project(m)).relu(), block.branch(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("place", PLACES)
def test_counts_follow_the_formula(place):
    cin, out, stride = place
    block = MinimumBlock(*place).eval()
    adapter = cin * out + out if out < cin else 0
    expected = 2 * out * cin + 4 * out + 36 * out + 2 * out**2 + 2 * out + adapter
    assert sum(p.numel() for p in block.parameters()) == expected
    with FlopCounterMode(display=False) as counter:
        block(torch.randn(1, cin, 8, 8))
    pixels = (8 // stride) ** 2
    macs = 2 * out * cin * 64 + (36 * out + 2 * out**2) * pixels + (cin * out * pixels if out < cin else 0)
    assert counter.get_total_flops() // 2 == macs


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("place", [(3, 8, 2), (6, 4, 1)])
def test_contract(options, place):
    """Gradients, fusing, copies, layouts, precision, compiling and exporting of every variant."""
    block = MinimumBlock(*place, **options, dtype=torch.float64)
    x = torch.randn(3, place[0], 7, 6, dtype=torch.float64)
    (block(x) * torch.randn_like(block(x))).sum().backward()
    largest = max(p.grad.abs().max() for p in block.parameters())
    assert all(p.grad.abs().max() > 1e-9 * largest for p in block.parameters())

    randomised(block)
    expected = block(x)
    state = copy.deepcopy(block.state_dict())
    fused = block.fuse()
    assert isinstance(fused, FusedMinimumBlock)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert (fused(x) - expected).abs().max() < 1e-10 * expected.abs().max()
    assert all(torch.equal(value, state[name]) for name, value in block.state_dict().items())
    assert torch.equal(pickle.loads(pickle.dumps(copy.deepcopy(block)))(x), expected)
    assert block(x[:0]).shape == (0, *expected.shape[1:])

    channels_last = copy.deepcopy(block).to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert channels_last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(channels_last, expected, rtol=1e-10, atol=1e-10)
    with torch.device("meta"):
        assert MinimumBlock(*place, **options)(torch.empty(2, place[0], 7, 6)).shape == (2, *expected.shape[1:])

    exported = torch.export.export(block, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    torch.testing.assert_close(exported(x[:2]), block(x[:2]), rtol=1e-10, atol=1e-10)
    block.train()
    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), block(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_gradcheck(options):
    block = MinimumBlock(3, 2, 2, **options, dtype=torch.float64)
    x = torch.randn(2, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    block = MinimumBlock(4, 8, 2)
    x = torch.randn(2, 4, 8, 8)
    expected = block(x)
    with torch.autocast("cpu", dtype=dtype):
        output = block(x)
    assert (output.float() - expected).abs().max() < 0.04 * expected.abs().max()
    output.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in block.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 3}, "stride=3 is not allowed; its shortcut pools 2x2, so give 1 or 2"),
        ({"kernel_size": 4}, "kernel_size=4 is not allowed; give an odd whole number of at least 3"),
        ({"kernel_size": 1}, "kernel_size=1 is not allowed"),
        ({"kernel_size": (3, 3)}, "is not allowed; give an odd whole number"),
        ({"expansion": 0.1}, "expansion=0.1 is not allowed; give a number of at least 0.25"),
        ({"combine": "or"}, "choose one of 'min', 'product', 'abs_relu', 'log'"),
        ({"norm": None}, "choose one of 'instance', 'batch'"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(options, message):
    with pytest.raises(UsageError, match=message):
        MinimumBlock(3, 4, **options)


def test_places_it_cannot_follow_are_refused():
    assert MinimumBlock.supports(Place(4, 8, 2)) is None
    assert "stride=4" in str(MinimumBlock.supports(Place(4, 8, 4)))
    with pytest.raises(ValueError, match="stride=4"):
        MinimumBlock.at(Place(4, 8, 4))
    assert "expansion=0.8 is not allowed" in str(MinimumBlock.supports(Place(4, 1), expansion=0.8))


def test_default_placement_is_the_papers():
    from convswap.models import create_model

    model = create_model("cifar_resnet20", num_classes=10)
    swapped = convswap.swap(model, "minimum_block", example_input=torch.randn(1, 3, 32, 32), start="fresh")
    found = {path: module for path, module in swapped.named_modules() if isinstance(module, MinimumBlock)}
    assert list(found) == ["layer1.0", "layer2.0", "layer3.0"]
    assert [(b.in_channels, b.out_channels, b.stride) for b in found.values()] == [
        (16, 16, 1),
        (16, 32, 2),
        (32, 64, 2),
    ]
    assert sum(p.numel() for p in swapped.parameters()) == 216_634  # as the FP-net of basic blocks
