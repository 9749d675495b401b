"""The G-Ghost stage against its formula written out, and the official code's tensors."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from test_ghost import randomised
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from convswap.units import GGhostStage, Place, get_unit

OPTIONS = [{}, {"mix": False}, {"cheap_ratio": 0.25, "group_width": 2}, {"depth": 5, "group_width": 4}]


def conv(state, name, x, stride=1, groups=1):
    """Convolution `name` and the BatchNorm behind it, from a state dictionary."""
    head, _, last = name.rpartition(".")
    norm = f"{head}.bn{last[4:]}" if last.startswith("conv") else f"{head}.{int(last) + 1}"
    weight = state[f"{name}.weight"]
    y = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
    mean, variance, scale, shift = (
        state[f"{norm}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (y - mean) / (variance + 1e-5).sqrt() * scale + shift


def block(state, name, x, stride, group_width):
    width = len(state[f"{name}.conv1.weight"])
    y = conv(state, f"{name}.conv1", x).relu()
    y = conv(state, f"{name}.conv2", y, stride, width // min(width, group_width)).relu()
    y = conv(state, f"{name}.conv3", y)
    if f"{name}.downsample.0.weight" in state:
        x = conv(state, f"{name}.downsample.0", x, stride)
    return (y + x).relu()


def stage(state, x, planes, stride, gw, blocks, ratio=0.5, mix=True):
    """Note section 2.4, step by step."""
    inner = max(1, int(0.75 * gw))
    raw = int(planes * (1 - ratio) / inner) * inner
    first = block(state, "base", x, stride, gw)
    e, all_features = first[:, :raw], [first]
    for i in range(blocks - 2):
        e = block(state, f"layers.{i}", e, 1, inner)
        all_features.append(e)
    cheap = conv(state, "cheap.0", first[:, raw:])
    if mix:
        z = F.adaptive_avg_pool2d(torch.cat(all_features, 1), 1)
        cheap = cheap + conv(state, "merge.4", conv(state, "merge.1", z).relu())
    return block(state, "end", torch.cat([e, cheap.relu()], 1), 1, gw)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("inp", "planes", "stride"), [(4, 8, 2), (12, 12, 1), (5, 16, 3)])
def test_formula_step_by_step(inp, planes, stride, options):
    torch.manual_seed(0)
    unit = randomised(GGhostStage(inp, planes, stride, **options, dtype=torch.float64)).eval()
    x = torch.randn(2, inp, 7, 5, dtype=torch.float64)
    expected = stage(
        unit.state_dict(), x, planes, stride, unit.group_width, unit.depth, unit.cheap_ratio, options.get("mix", True)
    )
    assert expected.shape[2:] == (-(-7 // stride), -(-5 // stride))
    fused = unit.fuse()
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fused.modules())
    for module in (unit, fused):
        torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["case_gghost_stage_b3_s1", "case_gghost_stage_b5_gw16"])
def test_golden(golden, name):
    reference = golden("ghost")[name]
    c = reference["config"]
    unit = GGhostStage(
        c["inplanes"], c["planes"], c["stride"], depth=c["blocks"], cheap_ratio=c["cheap_ratio"],
        group_width=c["group_width"], dtype=torch.float64,
    ).eval()  # fmt: skip
    assert (unit.raw, unit.out_channels - unit.raw) == (c["raw_planes"], c["cheap_planes"])
    unit.load_state_dict(reference["state_dict"], strict=True)
    for module in (unit, unit.fuse()):
        torch.testing.assert_close(module(reference["input"]), reference["output"], rtol=0, atol=1e-10)


def test_stands_in_the_stages_of_a_cifar_resnet20_by_default():
    for channels in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
        place = Place(*channels, depth=3, training=False)
        assert GGhostStage.supports(place) is None
        unit = GGhostStage.at(place)
        assert (unit.depth, unit.group_width, unit.training) == (3, 8, False)
        assert unit(torch.randn(1, channels[0], 8, 8)).shape == (1, channels[1], 8 // channels[2], 8 // channels[2])
    assert get_unit("g_ghost").replaces == "stage"


@pytest.mark.parametrize("channels", range(2, 65))
def test_a_default_group_width_exists_for_any_channels(channels):
    unit = GGhostStage(3, channels, device="meta")
    assert channels % unit.group_width == 0
    assert unit.group_width <= 8
    assert 0 < unit.raw < channels


def test_rounding_of_the_note():
    """Trap 6: 32 channels in groups of 8 make 12 worked on and 20 cheap."""
    unit = GGhostStage(32, 32, group_width=8)
    assert (unit.raw, unit.cheap[0].out_channels) == (12, 20)


def test_one_image_trains_only_without_the_mix():
    x = torch.randn(1, 4, 6, 6)
    unit = GGhostStage(4, 8)
    with pytest.raises(ValueError, match=r"batch size 1 is not allowed in train mode.*mix=False"):
        unit(x)
    unit.merge.eval()  # a frozen mix normalises by what it has seen
    assert unit(x).shape == (1, 8, 6, 6)
    assert unit.eval()(x).shape == (1, 8, 6, 6)
    assert GGhostStage(4, 8, mix=False)(x).shape == (1, 8, 6, 6)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_reach_every_parameter_and_are_right(options):
    torch.manual_seed(0)
    unit = GGhostStage(2, 8, 2, **options, dtype=torch.float64)
    (unit(torch.randn(3, 2, 6, 5, dtype=torch.float64)) * torch.randn(8, 1, 1, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in unit.parameters())
    names = [name for name, _ in unit.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in unit.parameters()]
    x = torch.randn(3, 2, 4, 3, dtype=torch.float64, requires_grad=True)

    def run(x, *values):
        return torch.func.functional_call(unit, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS[:2], ids=str)
def test_compiles_exports_and_copies(options):
    unit = randomised(GGhostStage(4, 8, 2, **options, dtype=torch.float64)).eval()
    x = torch.randn(3, 4, 7, 6, dtype=torch.float64)
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    for module in (unit, unit.fuse()):
        expected = module(x)
        exported = torch.export.export(module, (x,), dynamic_shapes=dynamic, strict=False).module()
        torch.testing.assert_close(exported(x[:1]), expected[:1])
        torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x), expected)
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert torch.equal(other(x), expected)
        assert module(x[:0]).shape == (0, 8, 4, 3)
    unit.train()
    torch.testing.assert_close(torch.compile(unit, fullgraph=True, backend="aot_eager")(x), unit(x))
    assert all(t.is_meta for t in GGhostStage(4, 8, device="meta", **options).state_dict().values())


def test_channels_last_and_autocast():
    torch.manual_seed(0)
    unit = GGhostStage(4, 16, 2).eval()
    x = torch.randn(5, 4, 9, 8)
    expected = unit(x)
    last = unit.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, expected)
    with torch.autocast("cpu", torch.bfloat16):
        output = unit(x)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.05)


def test_fusing_touches_nothing_and_keeps_mode_dtype_and_trainability():
    unit = randomised(GGhostStage(4, 8)).half().requires_grad_(False)
    before = copy.deepcopy(unit.state_dict())
    fused = unit.fuse()
    assert {p.dtype for p in fused.parameters()} == {torch.float16}
    assert all(module.training for module in fused.modules())
    assert not any(p.requires_grad for p in fused.parameters())
    for parameter in fused.parameters():
        parameter.zero_()
    assert all(torch.equal(before[key], value) for key, value in unit.state_dict().items())


def test_fused_costs_no_more():
    unit = GGhostStage(4, 8).eval()
    flops = []
    for module in (unit, unit.fuse()):
        with FlopCounterMode(display=False) as counter:
            module(torch.randn(1, 4, 8, 8))
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth": 2}, "depth=2 is not allowed; give a whole number of at least 3"),
        ({"depth": True}, "depth=True"),
        ({"cheap_ratio": 1}, "cheap_ratio=1 is not allowed; give a number between 0 and 1"),
        ({"cheap_ratio": "half"}, "cheap_ratio='half'"),
        ({"group_width": 5}, "group_width=5 is not allowed for 8 channels; choose one of 1, 2, 4"),
        ({"group_width": 4.0}, "group_width=4.0"),
        ({"group_width": 0}, "group_width=0"),
        ({"mix": "yes"}, "mix='yes'"),
        ({"cheap_ratio": 0.95}, "out_channels=8 cannot be split by cheap_ratio=0.95"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        GGhostStage(4, 8, **options)


def test_places_it_cannot_stand_at():
    assert "at least 3 blocks, here are 2" in GGhostStage.supports(Place(4, 8, depth=2))
    assert "cannot be split" in GGhostStage.supports(Place(4, 1, depth=3))
    assert "choose one of 1, 2, 4" in GGhostStage.supports(Place(4, 8, depth=3), group_width=3)
    with pytest.raises(ValueError, match="at least 3 blocks"):
        GGhostStage.at(Place(4, 8, depth=1))


def test_convolutions_start_as_in_the_official_networks():
    torch.manual_seed(0)
    stage = get_unit("g_ghost").cls(128, 256, 2, depth=4)
    assert stage.base.conv1.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.03)
    stage.reset_parameters()
    assert stage.cheap[0].weight.std().item() == pytest.approx((2 / (256 - stage.raw)) ** 0.5, rel=0.03)
