"""MGIC blocks against a naive V-cycle, the reference's tensors, and the published formula for the parameters."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.utils.flop_counter import FlopCounterMode

from convswap.errors import FusionError
from convswap.surgery.macs import count_macs
from convswap.units import MGICBlock, Place, get_unit, mgic_parameters, with_marks
from convswap.units.mgic.levels import make_divisible

GOLDEN = [
    "case_mbv3_c16to32_m48_k5_s2_se_hs",
    "case_mbv3_c24_m24_k3",
    "case_resnet_basic_c16to32_s2_g8_fc16",
    "case_resnet_basic_c32_g8_fc8",
    "case_resnet_bottleneck_c16x4_g8_fc8",
    "case_resnet_bottleneck_in16_c16x4_s2",
]
CASES = [  # in, out, stride, options
    (16, 16, 1, {}),
    (16, 32, 2, {}),
    (6, 12, 3, {"group_size": 2, "coarse_channels": 2}),
    (12, 12, 1, {"group_size": 3, "coarse_channels": 2, "coarsest": "paper"}),
    (5, 5, 1, {"coarsest": "paper"}),
    (8, 8, 1, {"group_size": 2, "coarse_channels": 2, "kernel_size": 1}),
    (8, 12, 2, {"group_size": 2, "coarse_channels": 2, "kernel_size": 5, "init": "average"}),
    (4, 24, 2, {"block": "bottleneck", "expansion": 3, "group_size": 2, "coarse_channels": 2}),
    (16, 16, 1, {"block": "bottleneck", "quirks": "code"}),
    (8, 12, 2, {"block": "mobilenet", "quirks": "code", "group_size": 2, "coarse_channels": 2}),
    (8, 8, 1, {"block": "mobilenet", "expansion": 1, "squeeze_excite": True, "quirks": "code"}),
    (8, 8, 1, {"block": "mobilenet", "expansion": 2, "squeeze_excite": True, "activation": "hardswish"}),
]


def randomised(unit: nn.Module) -> nn.Module:
    """Random weights and BatchNorm statistics, negative scales among them."""
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.normal_(std=0.5)
        for norm in unit.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
    return unit.eval()


def reference_names(unit: MGICBlock) -> dict[str, str]:
    """The names of the official code by ours: restrictions, the coarsest block, then the way up."""
    depth = len(unit.levels.fine)
    pairs = {"entry.0": "shortcut.0", "entry.1": "shortcut.1", "entry": "shortcut.0"}
    for level in range(depth + 1):
        up = 2 * depth - level
        ours = f"smooth.{level}" if level < depth else "coarse"
        if level < depth:
            pairs |= {f"restrict.{level}.0": f"mgStep.{level}.R", f"restrict.{level}.1": f"mgStep.{level}.bnr"}
            pairs |= {f"prolong.{level}.0": f"mgStep.{up}.P", f"prolong.{level}.1": f"mgStep.{up}.bnp1"}
        here = (*unit.levels.fine, unit.levels.coarse)[level]
        if unit.block != "mobilenet":
            inner = {"0": "k1", "1": "bn1", "3": "k2", "4": "bn2", "6": "k3", "7": "bn3"}
        elif here.mid == here.channels:
            gate = int(unit.squeeze_excite)
            inner = {"0": "conv.0", "1": "conv.1", str(3 + gate): "conv.4", str(4 + gate): "conv.5"}
            inner |= {"3.fc.0": "conv.3.fc.0", "3.fc.2": "conv.3.fc.2"}
        else:
            gate = int(unit.squeeze_excite)
            inner = {str(index): f"conv.{index}" for index in (0, 1, 3, 4)}
            inner |= {str(6 + gate): "conv.7", str(7 + gate): "conv.8"}
            inner |= {"5.fc.0": "conv.5.fc.0", "5.fc.2": "conv.5.fc.2"}
        pairs |= {f"{ours}.branch.{key}": f"mgStep.{up}.{value}" for key, value in inner.items()}
    tensors = (name for name, _ in [*unit.named_parameters(), *unit.named_buffers()])
    names = (name.rpartition(".") for name in tensors)
    return {f"{module}.{tensor}": f"{pairs[module]}.{tensor}" for module, _, tensor in names}


def reference_state(unit: MGICBlock) -> dict[str, Tensor]:
    names, state = reference_names(unit), unit.state_dict()
    return {theirs: state[ours] for ours, theirs in names.items()}


# The cycle once more, written from the formulas: dense convolutions of slices instead of groups, BatchNorm by hand.
class Naive:
    def __init__(self, state: dict[str, Tensor], block: str, hardswish: bool = False, quirks: bool = True):
        self.state, self.block, self.quirks = state, block, quirks
        self.act = (lambda x: x * torch.clamp(x + 3, 0, 6) / 6) if hardswish else (lambda x: torch.clamp(x, min=0))

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        groups = x.shape[1] // weight.shape[1]
        each_in, each_out = weight.shape[1], weight.shape[0] // groups
        parts = []
        for g in range(groups):
            piece, kernel = x[:, g * each_in : (g + 1) * each_in], weight[g * each_out : (g + 1) * each_out]
            parts.append(conv2d(piece, kernel, stride=stride, padding=kernel.shape[2] // 2))
        return torch.cat(parts, 1)

    def norm(self, name: str, x: Tensor) -> Tensor:
        mean, var, scale, shift = (
            self.state[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift

    def excite(self, name: str, x: Tensor) -> Tensor:
        if f"{name}.fc.0.weight" not in self.state:
            return x
        pooled = x.sum((2, 3)) / (x.shape[2] * x.shape[3])
        hidden = torch.clamp(pooled @ self.state[f"{name}.fc.0.weight"].T + self.state[f"{name}.fc.0.bias"], min=0)
        gate = hidden @ self.state[f"{name}.fc.2.weight"].T + self.state[f"{name}.fc.2.bias"]
        return x * (torch.clamp(gate + 3, 0, 6) / 6)[:, :, None, None]

    def inverted(self, name: str, z: Tensor) -> Tensor:
        if f"{name}.conv.8.weight" not in self.state:  # no expansion
            y = self.excite(f"{name}.conv.3", self.act(self.norm(f"{name}.conv.1", self.conv(f"{name}.conv.0", z))))
            return self.norm(f"{name}.conv.5", self.conv(f"{name}.conv.4", y))
        y = self.act(self.norm(f"{name}.conv.1", self.conv(f"{name}.conv.0", z)))
        y = self.norm(f"{name}.conv.4", self.conv(f"{name}.conv.3", y))
        y = self.act(self.excite(f"{name}.conv.5", y))
        return self.norm(f"{name}.conv.8", self.conv(f"{name}.conv.7", y))

    def step(self, name: str, z: Tensor, coarsest: bool) -> Tensor:
        if self.block == "mobilenet":
            y = torch.clamp(self.inverted(name, z) + z, min=0)
            return y + z if self.quirks else y
        y = torch.clamp(self.norm(f"{name}.bn1", self.conv(f"{name}.k1", z)), min=0)
        y = self.norm(f"{name}.bn2", self.conv(f"{name}.k2", y))
        if self.block == "bottleneck":
            y = self.norm(f"{name}.bn3", self.conv(f"{name}.k3", torch.clamp(y, min=0)))
            y = torch.clamp(y, min=0) if coarsest and self.quirks else y
        return torch.clamp(y + z, min=0)

    def __call__(self, x: Tensor, stride: int) -> Tensor:
        if "shortcut.0.weight" in self.state:
            x = self.conv("shortcut.0", x, stride)
            if self.block != "mobilenet":
                x = torch.clamp(self.norm("shortcut.1", x), min=0)
        return self.cycle(0, max(int(name.split(".")[1]) for name in self.state if name.startswith("mgStep")), x)

    def cycle(self, level: int, last: int, x: Tensor) -> Tensor:
        if 2 * level == last:
            return self.step(f"mgStep.{level}", x, True)
        restricted = self.conv(f"mgStep.{level}.R", x)
        if self.block == "mobilenet":
            restricted = self.norm(f"mgStep.{level}.bnr", restricted)
        change = self.cycle(level + 1, last, restricted) - restricted
        up = f"mgStep.{last - level}"
        return self.step(up, x + self.norm(f"{up}.bnp1", self.conv(f"{up}.P", change)), False)


def golden_unit(config: dict) -> MGICBlock:
    block = "mobilenet" if "mid_planes" in config else "bottleneck" if "expansion" in config else "basic"
    options: dict = {
        "block": block,
        "quirks": "code",
        "group_size": config["group_size"],
        "coarse_channels": config["mgFcChannel"],
    }
    if block == "mobilenet":
        options |= {"kernel_size": config["dw_kernel_size"], "squeeze_excite": config["use_se"]}
        options |= {"expansion": config["mid_planes"] / config["in_planes"]}
        options |= {"activation": "hardswish" if config["use_hs"] else "relu"}
    out = config["planes"] * config.get("expansion", 1)
    return MGICBlock(config["in_planes"], out, config["stride"], **options, dtype=torch.float64).eval()


@pytest.mark.parametrize("case", GOLDEN)
def test_golden(golden, case):
    reference = golden("mgic")[case]
    unit = golden_unit(reference["config"])
    names = reference_names(unit)
    assert sorted(names.values()) == sorted(reference["state_dict"])
    unit.load_state_dict({ours: reference["state_dict"][theirs] for ours, theirs in names.items()})
    x, expected = reference["input"], reference["output"]
    naive = Naive(reference["state_dict"], unit.block, unit.activation == "hardswish")(x, unit.stride)
    for output in (unit(x), unit.fuse()(x), naive):
        torch.testing.assert_close(output, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("entering", "leaving", "stride", "options"), CASES)
def test_equals_the_naive_cycle(entering, leaving, stride, options):
    unit = randomised(MGICBlock(entering, leaving, stride, **options, dtype=torch.float64))
    x = torch.randn(2, entering, 7, 6, dtype=torch.float64)
    naive = Naive(reference_state(unit), unit.block, unit.activation == "hardswish", unit.quirks == "code")
    expected = naive(x, stride)
    assert expected.shape == (2, leaving, -(-7 // stride), -(-6 // stride))
    torch.testing.assert_close(unit(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("quirk", [{"block": "bottleneck"}, {"block": "mobilenet"}])
def test_the_quirks_of_the_code_change_the_function(quirk):
    unit = randomised(MGICBlock(16, 16, **quirk, quirks="code", dtype=torch.float64))
    plain = MGICBlock(16, 16, **quirk, dtype=torch.float64).eval()
    plain.load_state_dict(with_marks(plain, unit.state_dict()))
    x = torch.randn(2, 16, 5, 5, dtype=torch.float64)
    assert (unit(x) - plain(x)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("width", "group_size", "coarse_channels", "code", "paper"),
    [
        (64, 16, 16, [64, 32, 16, 8], [64, 32, 16]),
        (256, 32, 32, [256, 128, 64, 32, 16], [256, 128, 64, 32]),
        (32, 8, 8, [32, 16, 8, 4], [32, 16, 8]),
        (16, 16, 16, [16, 8], [16]),
        (112, 8, 8, [112, 56, 28, 14, 7], [112, 56, 28, 14]),
        (24, 16, 16, [24, 12], [24]),
        (8, 64, 64, [8, 4], [8]),
    ],
)
def test_levels(width, group_size, coarse_channels, code, paper):
    for coarsest, expected in (("code", code), ("paper", paper)):
        options = {"group_size": group_size, "coarse_channels": coarse_channels, "coarsest": coarsest}
        unit = MGICBlock(width, width, **options, device="meta")
        assert [level.channels for level in (*unit.levels.fine, unit.levels.coarse)] == expected
        groups = [smooth.branch[0].groups for smooth in unit.smooth]
        assert groups == [restrict[0].groups for restrict in unit.restrict]
        assert groups == [prolong[0].groups for prolong in unit.prolong]
        assert unit.coarse.branch[0].groups == 1
        for channels, count in zip(expected, groups, strict=False):
            largest = max(channels // group_size, 1)
            dividing = [g for g in range(1, largest + 1) if channels % g == 0 and channels // 2 % g == 0]
            assert count == max(dividing)


def count(unit: nn.Module) -> int:
    return sum(parameter.numel() for parameter in unit.parameters())


MEASURED = {  # (c, s_g, s_c): parameters of a basic block, measured from the official code
    (64, 16, 16): 35_904,
    (256, 32, 32): 299_392,
    (512, 64, 64): 1_191_680,
    (1024, 64, 64): 2_443_008,
}


@pytest.mark.parametrize("sizes", MEASURED)
def test_measured_parameters(sizes):
    width, group_size, coarse_channels = sizes
    unit = MGICBlock(width, width, group_size=group_size, coarse_channels=coarse_channels, device="meta")
    assert (count(unit), mgic_parameters(*sizes)) == (MEASURED[sizes], MEASURED[sizes])
    # the convolutions' multiply-adds are their weights once a pixel
    convolved = sum(module.weight.numel() for module in unit.modules() if isinstance(module, nn.Conv2d))
    assert count_macs(unit, torch.zeros(1, width, 8, 6)) == convolved * 48


WIDTHS = [64, 128, 256, 512, 1024, 2048]


@pytest.mark.parametrize("block", ["basic", "bottleneck", "mobilenet"])
@pytest.mark.parametrize("coarsest", ["code", "paper"])
@pytest.mark.parametrize("sizes", [(16, 16), (64, 32)])
def test_the_formula_counts_the_module(block, coarsest, sizes):
    options = {"block": block, "coarsest": coarsest, "group_size": sizes[0], "coarse_channels": sizes[1]}
    for width in WIDTHS:
        assert mgic_parameters(width, **options) == count(MGICBlock(width, width, **options, device="meta"))
        change = options | {"in_channels": width // 2, "stride": 2, "kernel_size": 5}
        change |= {"squeeze_excite": True, "expansion": 2.5} if block == "mobilenet" else {}
        options_of_unit = {key: value for key, value in change.items() if key not in ("in_channels", "stride")}
        unit = MGICBlock(width // 2, width, 2, **options_of_unit, device="meta")
        assert mgic_parameters(width, **change) == count(unit)


@pytest.mark.parametrize(("entering", "leaving", "stride", "options"), CASES)
def test_the_formula_counts_small_and_odd_widths(entering, leaving, stride, options):
    asked = {key: value for key, value in options.items() if key not in ("quirks", "activation", "init")}
    unit = MGICBlock(entering, leaving, stride, **options, device="meta")
    assert mgic_parameters(leaving, in_channels=entering, stride=stride, **asked) == count(unit)


@pytest.mark.parametrize("block", ["basic", "bottleneck", "mobilenet"])
def test_parameters_grow_linearly_in_the_width(block):
    expansion = {"mobilenet": {"expansion": 2}}.get(block, {})
    counts = [count(MGICBlock(w, w, block=block, **expansion, device="meta")) for w in WIDTHS]
    slopes = [(after - before) / width for before, after, width in zip(counts, counts[1:], WIDTHS, strict=False)]
    assert len(set(slopes)) == 1  # an ordinary block's double with every doubling


def test_a_basic_block_costs_about_38_weights_a_channel_and_group_member():
    for width in WIDTHS[2:]:
        assert mgic_parameters(width, 32, 32) == pytest.approx(38 * width * 32, rel=0.1)


@pytest.mark.parametrize(("entering", "leaving", "stride", "options"), CASES)
def test_fused_is_equal_and_not_dearer(entering, leaving, stride, options):
    unit = randomised(MGICBlock(entering, leaving, stride, **options, dtype=torch.float64))
    x = torch.randn(2, entering, 6, 5, dtype=torch.float64)
    before = copy.deepcopy(unit.state_dict())
    fused = unit.fuse()
    torch.testing.assert_close(fused(x), unit(x), rtol=1e-10, atol=1e-10)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    assert all(torch.equal(value, before[name]) for name, value in unit.state_dict().items())
    work = []
    for module in (unit, fused):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(x)
        work.append(counter.get_total_flops())
    assert work[1] <= work[0]
    half = copy.deepcopy(unit).to(torch.float32).to(memory_format=torch.channels_last).train().fuse()
    assert half.training
    assert next(half.parameters()).dtype == torch.float32
    torch.testing.assert_close(half.eval()(x.float()), unit(x).float(), rtol=1e-3, atol=1e-3)


def test_fusing_needs_running_statistics():
    unit = MGICBlock(4, 4)
    unit.coarse.branch[1] = nn.BatchNorm2d(2, track_running_stats=False)
    with pytest.raises(FusionError, match="running statistics"):
        unit.fuse()


def test_average_transfer_averages_groups():
    unit = MGICBlock(32, 32, init="average", dtype=torch.float64)
    x = torch.randn(1, 32, 3, 3, dtype=torch.float64)
    coarse = unit.restrict[0](x)
    assert torch.allclose(coarse[:, :8], x[:, :16].mean(1, keepdim=True).expand(-1, 8, -1, -1))
    assert torch.allclose(coarse[:, 8:], x[:, 16:].mean(1, keepdim=True).expand(-1, 8, -1, -1))
    random = MGICBlock(256, 256)
    assert random.restrict[0][0].weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.1)


def test_every_output_depends_on_every_input_channel():
    unit = MGICBlock(64, 64, group_size=4, coarse_channels=4, kernel_size=1, dtype=torch.float64)
    x = torch.randn(64, 64, 2, 2, dtype=torch.float64)
    unit.train()(x)  # BatchNorm statistics of this input, so that no rectifier is shut
    unit.eval()
    jacobian = torch.zeros(64, 64, dtype=torch.float64)
    for channel in range(64):
        moved = x.clone()
        moved[:, channel] += 0.5
        jacobian[:, channel] = (unit(moved) - unit(x)).abs().amax((0, 2, 3))
    assert (jacobian > 0).all()


WRONG = [
    ({"group_size": 0}, "group_size=0 .* at least 1"),
    ({"coarse_channels": 1}, "coarse_channels=1 .* at least 2"),
    ({"block": "resnet"}, "'basic', 'bottleneck', 'mobilenet'"),
    ({"coarsest": "mine"}, "'code', 'paper'"),
    ({"quirks": True}, "'plain', 'code'"),
    ({"init": "zero"}, "'random', 'average'"),
    ({"kernel_size": 4}, "kernel_size=4 .* odd"),
    ({"kernel_size": 0}, "kernel_size=0 .* at least 1"),
    ({"expansion": 4}, "expansion=4 .* block='basic'"),
    ({"block": "bottleneck", "expansion": 1.5}, "expansion=1.5 .* whole number"),
    ({"block": "bottleneck", "expansion": 5}, "out_channels=16 must be a multiple of expansion=5"),
    ({"block": "bottleneck", "expansion": 16}, "out_channels=16 .* at least 32 channels"),
    ({"block": "mobilenet", "expansion": 0}, "expansion=0 .* positive"),
    ({"block": "mobilenet", "activation": "gelu"}, "'relu', 'hardswish'"),
    ({"activation": "hardswish"}, "only with block='mobilenet'"),
    ({"squeeze_excite": True}, "only with block='mobilenet'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        MGICBlock(16, 16, **options)
    with pytest.raises(ValueError, match=message):
        MGICBlock.at(Place(16, 16), **options)


def test_channels_that_do_not_divide_name_the_group_sizes_that_do():
    with pytest.raises(ValueError, match=r"level of 74 channels .* 1 group\(s\) of 74.* would do: 37, 38"):
        MGICBlock(74, 74)
    reason = MGICBlock.supports(Place(37, 74, 2))
    assert reason is not None and "37, 38" in reason  # noqa: PT018
    assert MGICBlock.supports(Place(37, 74, 2), group_size=37) is None
    MGICBlock(37, 74, 2, group_size=37, device="meta")
    assert MGICBlock.supports(Place(16, 1)) == "out_channels=1 is not allowed; a hierarchy needs at least 2 channels"
    with pytest.raises(ValueError, match="cannot stand at 37->74 block s2"):
        MGICBlock.at(Place(37, 74, 2))
    with pytest.raises(ValueError, match="stride=0"):
        MGICBlock(16, 16, 0)


def test_cifar_resnet_places_with_the_defaults():
    for place in (Place(16, 16), Place(16, 32, 2), Place(32, 64, 2, dtype=torch.float64, training=False)):
        unit = MGICBlock.at(place)
        assert unit.training == place.training
        x = torch.randn(2, place.in_channels, 9, 8, dtype=place.dtype)
        assert unit(x).shape == (2, place.out_channels, -(-9 // place.stride), -(-8 // place.stride))


@pytest.mark.parametrize(("entering", "leaving", "stride", "options"), CASES)
def test_trains_compiles_exports_and_copies(entering, leaving, stride, options):
    torch._dynamo.reset()
    unit = MGICBlock(entering, leaving, stride, **options, dtype=torch.float64)
    x = torch.randn(3, entering, 7, 6, dtype=torch.float64)
    output = torch.compile(unit, fullgraph=True, backend="aot_eager")(x)
    (output * torch.randn_like(output)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in unit.parameters())
    unit.eval()
    expected = unit(x)
    exported = torch.export.export(unit, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
    torch.testing.assert_close(exported.module()(x[:2]), expected[:2])
    twin = pickle.loads(pickle.dumps(copy.deepcopy(unit)))
    torch.testing.assert_close(twin(x), expected)
    assert unit(x[:0]).shape == (0, *expected.shape[1:])


@pytest.mark.parametrize("block", ["basic", "bottleneck", "mobilenet"])
def test_layout_and_precision(block):
    unit = MGICBlock(16, 32, 2, block=block).eval()
    x = torch.randn(2, 16, 9, 8)
    expected = unit(x)
    last = copy.deepcopy(unit).to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (unit(x) - expected).abs().max() < 0.1 * expected.abs().max()
    meta = MGICBlock(16, 32, 2, block=block, device="meta")
    assert meta(torch.empty(2, 16, 9, 8, device="meta")).shape == expected.shape
    assert copy.deepcopy(unit).to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16


def test_registry_row():
    spec = get_unit("mgic")
    assert (spec.kind, spec.replaces, spec.default_where, spec.placement) == ("block", "block", "all", "paper")
    for options in spec.variants:
        MGICBlock(16, 32, 2, **options, device="meta")


@pytest.mark.parametrize("divisor", [1, 4, 8])
def test_make_divisible_is_its_rule(divisor: int) -> None:
    """The nearest multiple (up from the middle), at least one divisor; the next one where it is below 90 %."""
    for tenths in range(1, 2000):
        value = tenths / 10
        below = value // divisor * divisor
        nearest = below if value - below < divisor / 2 else below + divisor
        wanted = max(divisor, nearest)
        if wanted < 0.9 * value:
            wanted += divisor
        assert make_divisible(value, divisor) == wanted, value
