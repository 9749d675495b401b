"""Every pattern of a residual block: equal to 1e-9 in float64, or left with the reason. The authors' tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import conv_bn, randomize
from residual_networks import (
    Basic,
    InvertedResidual,
    PadChannels,
    PreActivation,
    SqueezeExcite,
    network,
    two_convolutions,
)
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from convswap import ConvswapError, SurgeryError, plan_remove_residuals, remove_residuals
from convswap.surgery.residuals.layers import ChannelClamp, ChannelGate, PartialActivation

IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(4))


def layers(model: nn.Module, index: int) -> list[str]:
    return [type(layer).__name__ for layer in model[index]]


def bottleneck(inputs: int, middle: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    middle_conv = conv_bn(middle, middle, 3, stride, groups=groups)
    return nn.Sequential(*conv_bn(inputs, middle, 1), nn.ReLU(), *middle_conv, nn.ReLU(), *conv_bn(middle, outputs, 1))


def test_variant_a_carries_the_input_and_variant_b_the_projection() -> None:
    """Whichever has fewer channels: 8 -> 16 carries 8 (note 2.2 a), 16 -> 8 carries the 8 projected ones (2.2 b)."""
    up = Basic(two_convolutions(8, 16, 2), conv_bn(8, 16, 1, 2))
    down = Basic(two_convolutions(16, 8, 2), conv_bn(16, 8, 1, 2))
    plan = plan_remove_residuals(network(up, down), IMAGE)
    assert [block.layers for block in plan.blocks] == [
        ("8->24 3x3 s2", "24->16 3x3"),
        ("16->16 3x3 s2", "16->8 3x3"),
    ]
    removed = plan.apply()
    assert layers(removed, 3) == ["Conv2d", "ReLU", "Conv2d", "ReLU"]
    assert layers(removed, 4) == ["Conv2d", "ChannelClamp", "Conv2d", "ReLU"]  # what is carried has a sign


@pytest.mark.parametrize("rectified", [True, False])
def test_a_signed_input_is_carried_past_the_rectifier(rectified: bool) -> None:
    removed = remove_residuals(network(Basic(two_convolutions(8, 8)), rectified=rectified), IMAGE)
    assert layers(removed, 3 if rectified else 2)[1] == ("ReLU" if rectified else "ChannelClamp")


def test_an_equal_width_block_of_stride_2() -> None:
    """The published conversion takes such a block for one without a projection: its error is about 3."""
    removed = remove_residuals(network(Basic(two_convolutions(8, 8, 2), conv_bn(8, 8, 1, 2))), IMAGE)
    assert removed[3].conv1.out_channels == 16


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_bottleneck(groups: int) -> None:
    shortcut = conv_bn(8, 32, 1, 2)
    model = network(Basic(bottleneck(8, 16, 32, 2, groups), shortcut), Basic(bottleneck(32, 16, 32, 1, groups)))
    plan = plan_remove_residuals(model, IMAGE)
    grouped = {1: "", 4: " g6", 16: " depthwise"}[groups]
    assert plan.blocks[0].layers == ("8->24 1x1", f"24->24 3x3 s2{grouped}", "24->32 1x1")
    plan.apply()


def test_a_carried_map_that_fills_no_whole_group_is_filled_with_zeros() -> None:
    trunk = nn.Sequential(*conv_bn(6, 16, 1), nn.ReLU(), *conv_bn(16, 16, groups=4), nn.ReLU(), *conv_bn(16, 6, 1))
    plan = plan_remove_residuals(network(Basic(trunk), channels=6), IMAGE)
    assert plan.blocks[0].layers == ("6->24 1x1", "24->24 3x3 g6", "24->6 1x1")
    plan.apply()


@pytest.mark.parametrize("activation", [nn.ReLU6, nn.ReLU, nn.Hardtanh, nn.SiLU, nn.Hardswish, nn.GELU, nn.PReLU])
def test_inverted_residual(activation: type[nn.Module]) -> None:
    model = network(InvertedResidual(8, activation), InvertedResidual(8, activation), rectified=False)
    removed = remove_residuals(model, IMAGE)
    clamps = activation in (nn.ReLU6, nn.ReLU, nn.Hardtanh)
    kind = ChannelClamp if clamps else nn.PReLU if activation is nn.PReLU else PartialActivation
    assert sum(type(module) is kind for module in removed.modules()) == 4


def test_consecutive_pointwise_convolutions_are_multiplied_together() -> None:
    """MobileNetV2 becomes a chain dw-pw-dw-pw: no expansion stays by itself."""
    model = network(InvertedResidual(8), InvertedResidual(8), rectified=False)
    plan = plan_remove_residuals(model, IMAGE)
    assert plan.merged == (("2.conv3", "3.conv1"),)  # the stem is 3x3: a product with it could be dearer
    assert [block.layers for block in plan.blocks] == [
        ("8->56 1x1", "56->56 3x3 depthwise", "56->56 1x1"),
        ("56->56 3x3 depthwise", "56->8 1x1"),
    ]
    assert layers(plan.apply(), 3)[0] == "Identity"


class TwoReaders(nn.Module):
    """A linear 1x1 convolution that a residual block and something else read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.block = nn.Conv2d(3, 8, 1), InvertedResidual(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.cat([self.block(y), y], 1)


def test_a_convolution_with_two_readers_is_no_part_of_a_product() -> None:
    plan = plan_remove_residuals(randomize(TwoReaders()), IMAGE)
    assert plan.merged == ()
    plan.apply()


def test_pre_activation_blocks() -> None:
    """The doubling 1x1 convolution goes into the convolution before it; what carries has a sign."""
    model = network(PreActivation(8, 8), PreActivation(8, 16, 2), PreActivation(16, 16), rectified=False)
    plan = plan_remove_residuals(model, IMAGE)
    assert plan.merged == (("0", "2.double1"), ("3.conv2", "4.double1"))
    removed = plan.apply()
    assert removed[0].out_channels == 16
    assert layers(removed, 2) == ["Identity", "ChannelClamp", "Conv2d", "ChannelClamp", "Conv2d"]
    assert layers(removed, 3) == ["BatchNorm2d", "ReLU", "Conv2d", "ReLU", "Conv2d"]


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("last", [nn.Sigmoid, nn.Hardsigmoid])
@pytest.mark.parametrize("at_the_end", [False, True])
def test_squeeze_excite(linear: bool, last: type[nn.Module], at_the_end: bool) -> None:
    gate = SqueezeExcite(8, last(), linear=linear)
    trunk = two_convolutions(8, 8)
    trunk.insert(5 if at_the_end else 3, gate)
    removed = remove_residuals(network(Basic(trunk)), IMAGE)
    wide = next(module for module in removed.modules() if isinstance(module, ChannelGate))
    seen: list[Tensor] = []
    wide[-1].register_forward_hook(lambda *given: seen.append(given[-1]))
    removed.half()
    removed(IMAGE.half())
    assert (seen[0][:, :8] == 1).all()  # exactly, in half precision too


def test_a_gate_that_cannot_be_held_open_stays() -> None:
    trunk = two_convolutions(8, 8)
    trunk.insert(3, SqueezeExcite(8, nn.Tanh()))
    with pytest.raises(SurgeryError, match="its gate does not end in a sigmoid, so it cannot be held at 1"):
        plan_remove_residuals(network(Basic(trunk)), IMAGE)


def test_shortcuts_of_every_kind() -> None:
    shortcuts = {
        "option A": (PadChannels(4, 4), 2, 16),
        "zero channels on one side": (PadChannels(0, 8), 2, 16),
        "average pool and projection": (nn.Sequential(nn.AvgPool2d(2), *conv_bn(8, 16, 1)), 2, 16),
        "padded average pool": (nn.Sequential(nn.AvgPool2d(3, 2, 1), *conv_bn(8, 16, 1)), 2, 16),
        "3x3 projection": (conv_bn(8, 16, 3, 2), 2, 16),
        "grouped projection": (conv_bn(8, 16, 1, 2, groups=4), 2, 16),
        "two projections": (nn.Sequential(*conv_bn(8, 4, 1), *conv_bn(4, 16, 1, 2)), 2, 16),
        "max pool of one pixel": (nn.Sequential(nn.MaxPool2d(1, 2), nn.Conv2d(8, 16, 1)), 2, 16),
        "batch norm": (nn.BatchNorm2d(8), 1, 8),
        "depthwise": (conv_bn(8, 8, 3, groups=8), 1, 8),
    }
    for name, (shortcut, stride, outputs) in shortcuts.items():
        plan = plan_remove_residuals(network(Basic(two_convolutions(8, outputs, stride), shortcut)), IMAGE)
        assert plan.apply_measured()[1] < 1e-12, name


def test_a_pool_that_rounds_up_takes_even_maps_only() -> None:
    """ResNet-D's shortcut: at the border of an odd map, the pool averages fewer pixels than a convolution would."""
    pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
    model = network(Basic(two_convolutions(8, 16, 2), nn.Sequential(pool, *conv_bn(8, 16, 1))))
    plan = plan_remove_residuals(model, IMAGE)
    assert "note: 3 refuse maps" in str(plan)
    removed = plan.apply()
    even = torch.randn(1, 3, 20, 12)
    torch.testing.assert_close(removed(even), model(even), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="a map of 15x16 pixels comes to a block whose addition was removed for maps"):
        removed(IMAGE[:, :, 1:])
    with pytest.raises(SurgeryError, match="averages fewer pixels at the border of its 15x15 map"):
        plan_remove_residuals(model, IMAGE[:, :, 1:, 1:])


def test_frozen_batch_norms_and_factors() -> None:
    """torchvision's frozen norms are affine maps too; so is a layer scale, and a number."""
    trunk = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), FrozenBatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), Factor(8))
    for name, value in trunk[1].named_buffers():
        value.copy_(torch.rand(8) + (0.5 if name == "running_var" else 0))
    assert remove_residuals(network(Basic(trunk)), IMAGE)[3].conv1.out_channels == 16


def test_maps_of_other_sizes_stay_equal() -> None:
    model = network(
        Basic(two_convolutions(8, 16, 2), conv_bn(8, 16, 1, 2)),
        Basic(bottleneck(16, 8, 24, 2, 2), conv_bn(16, 24, 1, 2)),
        InvertedResidual(24),
    )
    removed = remove_residuals(model, IMAGE).double()
    model.double()
    for size in ((7, 7), (9, 16), (5, 31), (24, 24)):
        image = torch.randn(1, 3, *size, dtype=torch.float64)
        torch.testing.assert_close(removed(image), model(image), rtol=1e-5, atol=1e-5)


class Factor(nn.Module):
    """A layer scale, and a constant factor."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * (x * self.gamma)


class Overwriting(nn.Module):
    """The trunk rectifies in place the map that the shortcut then reads under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        kept = x.detach()
        return self.conv2(self.conv1(self.relu(x)).relu()) + kept


class Inner(nn.Module):
    """A map between the two convolutions has a second reader."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x))
        return torch.cat([self.conv2(y) + x, y], 1)[:, :8]


class SharedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.conv(x))) + x


class Crop(nn.Module):
    """Right for the example's size only."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :16, :16]


class BatchGate(nn.Module):
    """A gate that looks at the other images of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean((0, 2, 3), keepdim=True).sigmoid()


def enlarging() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=2))


REFUSED = {
    "in place": (Overwriting(), "relu_ writes into a map that is read again after it"),
    "inner reader": (Inner(), "it takes a part of a map"),
    "shared weights": (SharedWeights(), "3.conv.weight is used more than once"),
    "growing map": (Basic(enlarging()), "no tap of a 3x3 convolution with padding"),
    "two trunks": (Basic(two_convolutions(8, 8), two_convolutions(8, 8)), "both of its branches hold an activation"),
    "no activation": (Basic(conv_bn(8, 8), conv_bn(8, 8, 1)), "both of its branches are linear: convswap.fuse"),
    "three terms": (Basic(Basic(conv_bn(8, 8)).trunk, Basic(two_convolutions(8, 8), after=nn.Identity())), "."),
    "normalised by the layer": (Basic(nn.Sequential(nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8), nn.ReLU())), "group_norm"),
    "pool that rounds up": (
        Basic(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.AvgPool2d(2, ceil_mode=True)), nn.Conv2d(8, 8, 1, 2)),
        "an average pool with ceil_mode=True stands outside of its shortcut",
    ),
    "cropped": (Basic(two_convolutions(8, 8), Crop()), "it takes a part of a map"),
    "looks at the batch": (Basic(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), BatchGate())), "no channel gate"),
    "reflection": (
        Basic(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), nn.ReLU(), nn.Conv2d(8, 8, 1))),
        "it pads a map besides its convolutions",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_outside_of_the_conditions_is_refused_by_name_and_reason(name: str) -> None:
    block, reason = REFUSED[name]
    torch.manual_seed(0)
    if name == "three terms":  # the inner sum is a block of its own, the outer one is no block
        assert [b.path for b in plan_remove_residuals(network(block), IMAGE).blocks] == ["3.shortcut"]
        return
    with pytest.raises(SurgeryError, match=rf"residual blocks can become a chain: 3: .*({reason})"):
        plan_remove_residuals(network(block), IMAGE)


@st.composite
def blocks(draw: Any) -> tuple[nn.Module, int]:
    """A random block and its input channels."""
    unit, kernels = draw(st.integers(1, 3)), st.sampled_from([1, 3, 5, (3, 1)])
    inputs, middle, outputs = (draw(st.integers(1, 4)) * unit for _ in range(3))
    stride, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, unit]))
    first, second = draw(st.booleans()), draw(st.booleans())
    activation = draw(st.sampled_from([nn.ReLU, nn.ReLU6, nn.SiLU, nn.LeakyReLU, nn.PReLU, nn.Hardtanh]))
    strides = (stride, 1) if first else (1, stride)
    trunk = [
        *conv_bn(inputs, middle, draw(kernels), strides[0], groups=groups),
        activation(),
        *conv_bn(middle, outputs, draw(kernels), strides[1], groups=groups),
    ]
    if second:
        trunk = [nn.BatchNorm2d(inputs), activation(), *trunk]
    if draw(st.booleans()):
        trunk.append(SqueezeExcite(outputs, nn.Sigmoid()))
    project: list[nn.Module] = (
        []
        if inputs == outputs and stride == 1 and draw(st.booleans())
        else [
            *draw(st.sampled_from([(nn.AvgPool2d(stride),), ()])),
        ]
    )
    if inputs != outputs or stride > 1:
        kernel, parts = draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, unit]))
        project += conv_bn(inputs, outputs, kernel, 1 if project else stride, groups=parts)
    after = draw(st.sampled_from([nn.ReLU, nn.Identity, lambda: nn.BatchNorm2d(outputs)]))()
    return Basic(nn.Sequential(*trunk), nn.Sequential(*project), after), inputs


@given(blocks(), st.booleans(), st.integers(0, 3), st.integers(0, 99))
@settings(max_examples=60)
def test_random_blocks_are_equal_or_refused(
    block: tuple[nn.Module, int], rectified: bool, more: int, seed: int
) -> None:
    """`apply` itself raises over 1e-9; no other error than a refusal may come."""
    image = torch.randn(1, 3, 12 + more, 12, generator=torch.Generator().manual_seed(seed))
    model = network(block[0], channels=block[1], rectified=rectified, seed=seed)
    try:
        model(image)
    except RuntimeError:
        return  # the host itself cannot add its two maps at this size
    try:
        plan = plan_remove_residuals(model, image)
    except ConvswapError:
        return
    assert plan.apply_measured()[1] <= 1e-9


class Named(nn.Module):
    """The authors' modules under their names; the forward is the note's formula."""

    def __init__(self, case: dict[str, Any]) -> None:
        super().__init__()
        self.kind = case["config"]["cls"].split(".")[1]
        for name, tensor in case["state_dict"].items():
            if name.startswith("running"):
                continue  # recorded statistics, which inference does not read
            path, _, last = name.rpartition(".")
            if last == "weight" and tensor.dim() == 4:
                self._put(path, self._conv(path, case))
            elif last == "running_mean":
                self._put(path, nn.BatchNorm2d(len(tensor)))
        state = {k: v for k, v in case["state_dict"].items() if not k.startswith("running")}
        self.double().eval().load_state_dict(state, strict=True)

    def _put(self, path: str, module: nn.Module) -> None:
        owner, *rest = path.split(".")
        if rest:
            if not hasattr(self, owner):
                self.add_module(owner, nn.ModuleDict())
            getattr(self, owner)[rest[0]] = module
        else:
            self.add_module(owner, module)

    @staticmethod
    def _conv(path: str, case: dict[str, Any]) -> nn.Conv2d:
        weight, config = case["state_dict"][f"{path}.weight"], case["config"]
        middle = {"RMBlock": "conv2", "InvertedResidual": "conv.3"}.get(config["cls"].split(".")[1], "conv1")
        stride = config.get("stride", 2) if path in (middle, "downsample", "downsample.0") else 1
        groups = {"RMBlock": len(weight) // config.get("cpg", 1), "InvertedResidual": len(weight)}
        number = groups.get(config["cls"].split(".")[1], 1) if path == middle else 1
        inputs, kernel = weight.shape[1] * number, weight.shape[2]
        return nn.Conv2d(inputs, len(weight), kernel, stride, kernel // 2, groups=number, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "InvertedResidual":
            layers = list(self.conv.values())
            y = F.relu6(layers[1](layers[0](x)))
            return x + layers[5](layers[4](F.relu6(layers[3](layers[2](y)))))
        if self.kind == "ResChannel":
            x = F.relu(self.bn1(x))
            return self.conv2(F.relu(self.bn2(self.conv1(x)))) + self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.kind == "RMBlock":
            y = self.bn3(self.conv3(F.relu(y)))
        shortcut = x
        for layer in self.downsample.values() if hasattr(self, "downsample") else ():
            shortcut = layer(shortcut)
        return F.relu(y + shortcut)


@pytest.mark.parametrize(
    "name",
    ["resblock_s2", "invres_small", "invres_relu6_saturates", "preact_reschannel", "rmnext_block_s1"],
)
def test_golden(golden: Any, name: str) -> None:
    """Against the authors' outputs: also where their own converted block is wrong by 7 (a ReLU6 that saturates)."""
    case = golden("rmnet")[f"case_{name}"]
    rectified = bool(case["input"].min() >= 0)
    model = nn.Sequential(nn.ReLU() if rectified else nn.Identity(), Named(case)).eval()
    torch.testing.assert_close(model(case["input"]), case["output"], rtol=1e-9, atol=1e-9)
    removed = remove_residuals(model, case["input"])
    torch.testing.assert_close(removed(case["input"]), case["output"], rtol=1e-9, atol=1e-9)
    if name == "resblock_s2":  # the authors' chain has these shapes
        theirs = {tuple(t.shape) for t in case["deployed_state_dict"].values() if t.dim() == 4}
        assert {tuple(p.shape) for p in removed[1].parameters() if p.dim() == 4} == theirs


def test_randomized_statistics_are_what_is_tested() -> None:
    model = randomize(network(Basic(two_convolutions(8, 8))))
    assert model[1].running_var.std() > 0.1
