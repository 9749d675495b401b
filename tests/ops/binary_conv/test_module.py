"""The packed modules: the unpacked formula, what is kept of them, and what torch does with modules."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from convswap.ops.binary_conv import (
    PackedBinaryChain,
    PackedBinaryConv2d,
    binary_conv2d_reference,
    native_calls,
    signs,
    unpack_weight,
)
from convswap.ops.binary_conv import module as module_file


def random_norm(channels: int, dtype: torch.dtype = torch.float32) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, dtype=dtype).eval()
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
        norm.weight[0] = 0
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 2)
    return norm


def random_conv(inputs: int, outputs: int, kernel: int = 3, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    groups = options.get("groups", 1)
    weight = torch.randn(outputs, inputs // groups, kernel, kernel, dtype=dtype)
    scale, bias = torch.randn(outputs, dtype=dtype), torch.randn(outputs, dtype=dtype)
    norm = random_norm(inputs, dtype)
    return weight, scale, bias, norm, PackedBinaryConv2d.from_weight(weight, scale, bias, norm=norm, **options)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": "same", "dilation": 2},
        {"padding": (2, 0), "stride": (2, 1), "relu": True},
        {"groups": 2, "padding": "valid"},
        {"groups": 70, "padding": 1},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": 2, "padding_mode": "circular", "expand": "once"},
    ],
    ids=str,
)
def test_equals_the_formula(options: dict[str, Any], last: bool) -> None:
    torch.manual_seed(0)
    weight, scale, bias, norm, packed = random_conv(70, 140, **options)
    x = torch.randn(2, 70, 9, 7).to(memory_format=torch.channels_last if last else torch.contiguous_format)
    y = packed(x)
    conv = nn.Conv2d(70, 140, 3, bias=False, **{k: v for k, v in options.items() if k not in ("relu", "expand")})
    conv.weight.data = signs(weight)
    sums = conv(signs(norm(x))).round()
    expected = sums * scale[:, None, None] + bias[:, None, None]
    assert torch.equal(y, expected.relu() if options.get("relu") else expected)
    assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("relu", [False, True])
def test_map_of_the_paper(groups: int, relu: bool, dilation: int) -> None:
    torch.manual_seed(0)
    geometry = {"padding": (1, 2), "stride": (2, 3), "dilation": dilation}
    options = {**geometry, "groups": groups, "relu": relu, "input_scale": "K"}
    weight, scale, bias, norm, packed = random_conv(64, 10, dtype=torch.float64, **options)
    x = torch.randn(2, 64, 9, 8, dtype=torch.float64)
    means = norm(x).abs().unflatten(1, (groups, -1)).mean(2)
    box = torch.full((groups, 1, 3, 3), 1 / 9, dtype=torch.float64)
    k = F.conv2d(means, box, groups=groups, **geometry).repeat_interleave(10 // groups, 1)  # type: ignore[arg-type]
    sums = F.conv2d(signs(norm(x)), signs(weight), groups=groups, **geometry)  # type: ignore[arg-type]
    expected = sums * scale[:, None, None] * k + bias[:, None, None]
    torch.testing.assert_close(packed(x), expected.relu() if relu else expected, rtol=1e-10, atol=1e-10)


def test_weights_are_one_bit_each() -> None:
    torch.manual_seed(0)
    weight, scale, *_, packed = random_conv(128, 64)
    state = packed.state_dict()
    assert set(state) == {"weight_bits", "scale", "bias", "threshold", "flip", "_extra_state"}
    assert state["weight_bits"].numel() * 64 == weight.numel()
    assert {name for name, _ in packed.named_parameters()} == {"scale", "bias"}
    assert not any(p.requires_grad for p in packed.train().parameters())
    assert torch.equal(unpack_weight(packed.weight_bits, 64, 128), signs(weight))
    assert torch.equal(packed.weight, signs(weight) * scale[:, None, None, None])


def test_loads_strictly_without_float_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    *_, packed = random_conv(70, 24, padding=1, expand="once")
    x = torch.randn(2, 70, 6, 5)
    save_file(packed.state_dict(), tmp_path / "packed.safetensors")
    state = load_file(tmp_path / "packed.safetensors")
    for assign in (False, True):
        empty = PackedBinaryConv2d(70, 24, 3, padding=1, norm=True, expand="once", device="meta" if assign else None)
        empty.load_state_dict(state, strict=True, assign=assign)
        assert torch.equal(empty(x), packed(x))


def test_the_state_of_another_packed_form_is_refused() -> None:
    """With and without the rectifier the tensors are the same."""
    plain, rectified = (PackedBinaryConv2d(70, 24, 3, relu=relu) for relu in (False, True))
    with pytest.raises(RuntimeError, match=r"is of PackedBinaryConv2d\(relu=True\), but this is .*\(relu=False\)"):
        plain.load_state_dict(rectified.state_dict())


class _Halves:
    """Stands for a path that expands weights: `expand` gives a copy, calls must be handed it."""

    made = 0

    @classmethod
    def expand(cls, way: Any, weight: Tensor) -> Tensor:
        cls.made += 1
        return weight.flatten()[:2].to(torch.int8)


def test_expanded_weights_are_kept_beside_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_calls, "expand", _Halves.expand)
    torch.manual_seed(0)
    *_, packed = random_conv(70, 24, padding=1, expand="once")
    assert packed.panels is not None
    assert "panels" not in packed.state_dict()
    before = _Halves.made
    twin = copy.deepcopy(packed)
    assert twin.panels is not None
    assert twin.panels is not packed.panels
    assert _Halves.made == before + 1
    assert pickle.loads(pickle.dumps(packed)).panels is not None
    packed.double()
    assert packed.panels is not None
    assert packed.panels.dtype == torch.int8
    packed.weight_bits.zero_()
    packed.expand_weight()
    assert not packed.panels.any()
    *_, lazy = random_conv(70, 24, padding=1)
    assert lazy.panels is None


def test_expanded_weights_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    *_, once = random_conv(70, 24, padding=1, expand="once")
    x = torch.randn(2, 70, 6, 5)
    for path in native_calls.path_names():
        monkeypatch.setenv(native_calls.VARIABLE, path)
        kept = once(x)  # of the path that was best
        once.expand_weight()
        assert torch.equal(once(x), kept)
        once.expand = "call"
        once.expand_weight()
        assert once.panels is None
        assert torch.equal(once(x), kept)
        once.expand = "once"


def test_survives_copies_and_conversions() -> None:
    torch.manual_seed(0)
    *_, packed = random_conv(70, 24, padding=1)
    x = torch.randn(2, 70, 6, 5)
    assert torch.equal(copy.deepcopy(packed)(x), packed(x))
    assert torch.equal(pickle.loads(pickle.dumps(packed))(x), packed(x))
    double = copy.deepcopy(packed).double()
    assert double(x.double()).dtype == torch.float64
    torch.testing.assert_close(double(x.double()).float(), packed(x))
    half = copy.deepcopy(packed).bfloat16()
    assert half(x.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = packed(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, packed(x).bfloat16())
    meta = copy.deepcopy(packed).to("meta")
    assert meta(x.to("meta")).shape == packed(x).shape
    assert packed(x[:0]).shape == (0, 24, 6, 5)


@pytest.mark.parametrize("expanded", [False, True])
@pytest.mark.parametrize("kind", ["conv", "K", "chain"])
def test_compiles_and_exports(kind: str, expanded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    if expanded:  # as on a processor whose best path expands weights
        monkeypatch.setattr(native_calls, "expand", _Halves.expand)
    options = {"padding": 1, "expand": "once"}
    module: nn.Module = random_conv(70, 24, **options, **({"input_scale": "K"} if kind == "K" else {}))[-1]
    if kind == "chain":
        module = PackedBinaryChain([module, random_conv(24, 40, padding=1)[-1]])
    x = torch.randn(2, 70, 6, 5)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(module, fullgraph=True)(x), module(x))
    program = torch.export.export(module, (x,), dynamic_shapes={"x": {0: torch.export.Dim("n", min=1, max=64)}})
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for images in (1, 3):
        x = torch.randn(images, 70, 6, 5)
        torch.testing.assert_close(loaded(x), module(x))
    assert all(t is None or t.dtype != torch.int8 for t in program.constants.values())


def test_folds_what_follows() -> None:
    torch.manual_seed(0)
    *_, packed = random_conv(64, 24, dtype=torch.float64)
    x, scale, shift = torch.randn(1, 64, 5, 5, dtype=torch.float64), torch.randn(24), torch.randn(24)
    expected = packed(x) * scale.double()[:, None, None] + shift.double()[:, None, None]
    packed.fold_affine(scale, shift)
    torch.testing.assert_close(packed(x), expected)
    *_, rectified = random_conv(64, 24, relu=True)
    with pytest.raises(RuntimeError, match="rectifier"):
        rectified.fold_affine(scale, shift)


def test_says_why_torch_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(native_calls.VARIABLE, raising=False)
    torch.manual_seed(0)
    depthwise = random_conv(70, 70, groups=70)[-1]
    assert depthwise.path() == "torch"
    assert depthwise.why_not_native() is not None
    plain = random_conv(70, 70)[-1]
    assert plain.path() == (native_calls.path_names() or ["torch"])[0]
    assert (plain.why_not_native() is None) == bool(native_calls.path_names())
    monkeypatch.setenv(native_calls.VARIABLE, "torch")
    assert "asks for it" in plain.why_not_native()


def test_counts_its_operations() -> None:
    torch.manual_seed(0)
    *_, packed = random_conv(64, 24, padding=1)
    with FlopCounterMode(display=False) as counter:
        packed(torch.randn(2, 64, 5, 5))
    assert counter.get_total_flops() == 2 * 2 * 24 * 25 * 64 * 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_scale": "k"}, "input_scale='k'"),
        ({"expand": "never"}, "expand='never'"),
        ({"padding": "same", "stride": 2}, "padding='same'"),
        ({"padding": "full"}, "padding='full'"),
        ({"padding": -1}, "padding=-1"),
        ({"groups": 3}, "groups=3"),
        ({"padding_mode": "mirror"}, "padding_mode='mirror'"),
    ],
    ids=str,
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PackedBinaryConv2d(64, 64, 3, **options)


def test_chain_equals_the_sequence_to_the_last_bit() -> None:
    torch.manual_seed(0)
    convs = [
        random_conv(70, 40, padding=1, relu=True)[-1],
        random_conv(40, 128, padding=1, stride=2)[-1],
        random_conv(128, 64, kernel=1, groups=2)[-1],
        PackedBinaryConv2d.from_weight(torch.randn(20, 64, 3, 3), torch.rand(20), None, relu=True),
    ]
    x = torch.randn(3, 70, 13, 12)
    chain, sequence = PackedBinaryChain(convs), nn.Sequential(*convs)
    expected = sequence(x)
    assert expected.unique().numel() > 50
    assert torch.equal(chain(x), expected)
    twin = PackedBinaryChain([copy.deepcopy(conv) for conv in convs])
    for tensor in (*twin.buffers(), *twin.parameters()):
        tensor.zero_()
    twin.load_state_dict(chain.state_dict(), strict=True)
    assert torch.equal(twin(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(chain))(x), expected)
    assert torch.equal(PackedBinaryChain(convs[:1])(x), convs[0](x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_chain_in_another_precision_equals_the_sequence(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    convs = [random_conv(64, 64, padding=1)[-1] for _ in range(3)]
    chain, sequence = PackedBinaryChain(copy.deepcopy(convs)).to(dtype), nn.Sequential(*convs).to(dtype)
    x = torch.randn(4, 64, 14, 14, dtype=dtype)
    assert torch.equal(chain(x), sequence(x))


@pytest.mark.parametrize("shape", [(2, 60, 8, 8), (2, 65, 8, 8), (64, 8, 8), (2, 64, 8)])
def test_input_of_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    convs = [PackedBinaryConv2d(64, 64, 3), PackedBinaryConv2d(64, 64, 3)]
    for module in (convs[0], PackedBinaryChain(convs)):
        with pytest.raises(ValueError, match=r"input of shape .* give \(N, 64, H, W\)"):
            module(torch.randn(shape))


def test_chain_writes_no_numbers_between(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    convs = [random_conv(64, 64, padding=1)[-1] for _ in range(3)]
    calls: list[str] = []
    for name in ("binary_conv2d", "binary_pack"):
        real = getattr(module_file, name)
        monkeypatch.setattr(module_file, name, lambda *a, real=real, name=name: (calls.append(name), real(*a))[1])
    PackedBinaryChain(convs)(torch.randn(1, 64, 8, 8))
    assert calls == ["binary_conv2d"]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {"inputs": 63}, "64 output channels meet 63"),
        ({"input_scale": "K"}, {}, "map K"),
        ({}, {"padding": 1, "padding_mode": "reflect"}, "reflect"),
        ({}, {"groups": 2}, "begin within a word"),
    ],
    ids=str,
)
def test_chain_says_what_cannot_be_joined(first: dict[str, Any], second: dict[str, Any], message: str) -> None:
    convs = PackedBinaryConv2d(32, 64, 3, **first), PackedBinaryConv2d(second.pop("inputs", 64), 64, 3, **second)
    with pytest.raises(ValueError, match=message):
        PackedBinaryChain(convs)
    with pytest.raises(ValueError, match="at least one"):
        PackedBinaryChain([])


def test_reference_is_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native_calls.VARIABLE, "torch")
    torch.manual_seed(0)
    weight, scale, bias, norm, packed = random_conv(70, 24, padding=1, relu=True)
    x = torch.randn(2, 70, 6, 5)
    expected = binary_conv2d_reference(norm(x), weight, scale, bias, None, (1, 1), (1, 1, 1, 1), relu=True)
    assert torch.equal(packed(x), expected)


def test_nan_behind_a_folded_batch_norm_is_as_documented() -> None:
    norm = nn.BatchNorm2d(3).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -1.0, 1.0]))
    layer = PackedBinaryConv2d.from_weight(torch.eye(3)[:, :, None, None] * 2 - 1, norm=norm)
    x = torch.tensor([float("nan"), float("nan"), float("inf")]).reshape(1, 3, 1, 1)
    s = torch.tensor([-1.0, 1.0, 1.0])  # the second is turned
    assert torch.equal(layer(x).flatten(), (torch.eye(3) * 2 - 1) @ s)
