"""The frequency filter against loops in space, full complex transforms, and what its stored spectra must survive."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convswap.units import with_marks
from convswap.units.niff.niff import FusedNIFF, NIFFConv2d
from convswap.units.niff.spatial import resampling_error

DOUBLE: dict[str, Any] = {"dtype": torch.float64}
DEPTHWISE = {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1, "groups": 4}
DENSE = {"in_channels": 3, "out_channels": 4, "kernel_size": 5, "padding": 2}
PLACES = [
    (DEPTHWISE, {}),
    (DENSE, {}),
    (DENSE, {"form": "full"}),
    (DENSE, {"mlp": "big", "init": "paper"}),
    (DENSE | {"bias": False}, {"mlp": "tiny", "imag_bias": True}),
    (DEPTHWISE, {"reference_size": (6, 9)}),
]
each_place = pytest.mark.parametrize(("geometry", "options"), PLACES, ids=str)
each_boundary = pytest.mark.parametrize("boundary", ["circular", "zero"])
each_size = pytest.mark.parametrize("size", [(7, 6), (6, 7), (8, 8), (5, 9), (1, 4)], ids=str)


def randomised(unit: Any) -> Any:
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.normal_()
    return unit.eval()


def mlp(layers: nn.ModuleList, u: float, v: float) -> list[float]:
    """The coordinate MLP at one point, in plain numbers."""
    values = [u, v]
    for index, layer in enumerate(layers):
        weight = layer.weight.tolist()
        bias = [0.0] * len(weight) if layer.bias is None else layer.bias.tolist()
        values = [sum(w * x for w, x in zip(row, values, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
        if index < len(layers) - 1:
            values = [x / (1 + math.exp(-x)) if x > -700 else 0.0 for x in values]
    return values


def paper_kernels(unit: NIFFConv2d, size: tuple[int, int]) -> Tensor:
    """`Re ifft2(ifftshift(R))` of every response, R on the official grid (or that of `reference_size`)."""
    height, width = size
    response = torch.zeros(unit.spectrum.maps, height, width, dtype=torch.complex128)
    reference = unit.spectrum.reference_size or size

    def coordinate(index: int, count: int, base: int) -> float:
        if unit.spectrum.reference_size is None:
            return index - count / 2  # arange(-N/2, N/2)
        return (index - count // 2) * base / count - (0.5 if base % 2 else 0.0)

    for r in range(height):
        for c in range(width):
            u, v = coordinate(c, width, reference[1]), coordinate(r, height, reference[0])
            real, imag = mlp(unit.spectrum.real.layers, u, v), mlp(unit.spectrum.imag.layers, u, v)
            response[:, r, c] = torch.complex(torch.tensor(real, **DOUBLE), torch.tensor(imag, **DOUBLE))
    return torch.fft.ifft2(torch.fft.ifftshift(response, dim=(-2, -1))).real


def convolve_by_loops(x: Tensor, kernels: Tensor, circular: bool) -> Tensor:
    """(N, I, H, W) with (O, I, H, W): the sum over displacements -(N // 2) .. of shifted maps."""
    height, width = x.shape[-2:]
    y = x.new_zeros(x.shape[0], kernels.shape[0], height, width)
    for a in range(-(height // 2), height - height // 2):
        for b in range(-(width // 2), width - width // 2):
            shifted = torch.zeros_like(x)
            for r in range(height):
                for c in range(width):
                    inside = 0 <= r - a < height and 0 <= c - b < width
                    if circular or inside:
                        shifted[:, :, r, c] = x[:, :, (r - a) % height, (c - b) % width]
            y += torch.einsum("nihw,oi->nohw", shifted, kernels[:, :, a % height, b % width])
    return y


def dense_kernels(unit: NIFFConv2d, size: tuple[int, int]) -> Tensor:
    """(out, in, H, W) from the formulas of the three forms."""
    k = paper_kernels(unit, size)
    if unit.form == "full":
        return k.unflatten(0, (unit.in_channels, unit.out_channels)).transpose(0, 1)
    mix = torch.eye(unit.in_channels, **DOUBLE) if unit.pointwise is None else unit.pointwise.weight[:, :, 0, 0]
    return mix[:, :, None, None] * k


@each_place
@each_boundary
@each_size
def test_equals_convolution_in_space(
    geometry: dict[str, Any], options: dict[str, Any], boundary: str, size: tuple[int, int]
) -> None:
    unit = randomised(NIFFConv2d(**geometry, **options, boundary=boundary, **DOUBLE))
    x = torch.randn(2, unit.in_channels, *size, **DOUBLE)
    with torch.no_grad():
        kernels = dense_kernels(unit, size)
        expected = convolve_by_loops(x, kernels, boundary == "circular")
        if unit.bias is not None:
            expected += unit.bias[:, None, None]
        scale = expected.abs().max()
        assert (unit(x) - expected).abs().max() < 1e-10 * scale
        assert (unit(x) - expected).abs().max() < 1e-10 * scale  # from the store
        assert (unit.fuse(size)(x) - expected).abs().max() < 1e-10 * scale
        own = unit.effective_kernel(size)
        if unit.groups > 1:
            kernels = torch.stack([kernels[c, c : c + 1] for c in range(unit.out_channels)])
        assert (own - kernels).abs().max() < 1e-10 * kernels.abs().max()
        assert torch.equal(unit.effective_kernel(size, centred=True)[..., size[0] // 2, size[1] // 2], own[..., 0, 0])


def test_gradients_are_those_of_the_straightforward_form() -> None:
    """Full complex transforms and PyTorch's own gradients, in the map and in every parameter."""
    for size in ((7, 6), (8, 9)):
        unit = NIFFConv2d(**DEPTHWISE, **DOUBLE)
        x = torch.randn(2, 4, *size, requires_grad=True, **DOUBLE)
        wanted = (x, *unit.parameters())
        weight = torch.randn(2, 4, *size, **DOUBLE)
        got = torch.autograd.grad((unit(x) * weight).sum(), wanted, create_graph=True)
        kernels = torch.fft.fft2(unit.effective_kernel(size)[:, 0])
        y = torch.fft.ifft2(kernels * torch.fft.fft2(x)).real + unit.bias[:, None, None]
        expected = torch.autograd.grad((y * weight).sum(), wanted, create_graph=True)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b)
        second = [torch.autograd.grad(g[0].square().sum(), unit.spectrum.real.last.weight)[0] for g in (got, expected)]
        torch.testing.assert_close(*second)


CHANGES: dict[str, Callable[[NIFFConv2d], Any]] = {
    "in place": lambda unit: unit.spectrum.real.last.weight.mul_(2),
    "through .data": lambda unit: unit.spectrum.imag.last.weight.data.mul_(2),
    "another tensor as .data": lambda unit: setattr(unit.spectrum.real.last.bias, "data", torch.ones(3, **DOUBLE)),
    "another parameter": lambda unit: setattr(unit.spectrum.real.last, "bias", nn.Parameter(torch.ones(3, **DOUBLE))),
    "load_state_dict": lambda unit: unit.load_state_dict(with_marks(unit, NIFFConv2d(**DENSE, **DOUBLE).state_dict())),
    "load_state_dict(assign)": lambda unit: unit.load_state_dict(
        with_marks(unit, NIFFConv2d(**DENSE, **DOUBLE).state_dict()), assign=True
    ),
    "there and back": lambda unit: unit.half().double(),
}


@pytest.mark.parametrize("change", CHANGES)
@each_boundary
def test_stored_spectra_are_dropped(change: str, boundary: str) -> None:
    unit = NIFFConv2d(**DENSE, boundary=boundary, **DOUBLE).eval()
    x = torch.randn(1, 3, 8, 8, **DOUBLE)
    with torch.no_grad():
        before = unit(x)
        assert len(unit.spectrum.store) == 1
        CHANGES[change](unit)
        after = unit(x)
        assert not torch.equal(after, before)
        assert torch.equal(after, copy.deepcopy(unit)(x))  # a copy has an empty store


def test_training_steps_reach_the_next_evaluation() -> None:
    unit = NIFFConv2d(**DENSE, **DOUBLE)
    optimizer = torch.optim.AdamW(unit.parameters(), lr=0.1)
    x = torch.randn(2, 3, 8, 6, **DOUBLE)
    for _ in range(3):
        with torch.inference_mode():
            assert torch.equal(unit(x), copy.deepcopy(unit)(x))
        with torch.no_grad():
            assert torch.equal(unit(x), copy.deepcopy(unit)(x))
        unit(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.inference_mode():
        unit(x)
    frozen = unit.requires_grad_(False)
    image = x.clone().requires_grad_()
    frozen(image).sum().backward()  # through a spectrum stored in inference mode
    assert image.grad is not None


def test_what_is_stored() -> None:
    unit = NIFFConv2d(**DENSE).train()
    store = unit.spectrum.store
    x = torch.randn(1, 3, 8, 8)
    unit(x)
    assert len(store) == 0, "training evaluates anew"
    with torch.no_grad():
        for size in ((8, 8), (8, 6), (8, 8)):
            unit(torch.randn(1, 3, *size))
        assert len(store) == 2
        calls = []
        handle = unit.spectrum.register_forward_hook(lambda *args: calls.append(1))
        unit(x)
        assert not calls
        unit.spectrum.store.clear()
        unit(x)
        assert calls == [1]
        handle.remove()
        for side in range(1, 20):
            unit(torch.randn(1, 3, side, 8))
        assert len(store) <= 8
    assert len(pickle.loads(pickle.dumps(unit)).spectrum.store) == 0
    torch.func.functional_call(unit, {k: 2 * v for k, v in unit.named_parameters()}, (x,))


def test_per_sample_gradients_and_maps_over_parameters() -> None:
    unit = NIFFConv2d(**DENSE, **DOUBLE).eval()
    stacked = {name: torch.stack([p, 2 * p]).detach() for name, p in unit.named_parameters()}
    x = torch.randn(1, 3, 6, 6, **DOUBLE)
    with torch.no_grad():
        unit(x)
        both = torch.vmap(lambda values: torch.func.functional_call(unit, values, (x,)))(stacked)
        assert torch.allclose(both[0], unit(x))
        assert not torch.allclose(both[1], unit(x))


def test_autocast_and_half_compute_in_float32() -> None:
    unit = NIFFConv2d(**DEPTHWISE).eval()
    x = torch.randn(2, 4, 7, 14)
    seen: list[torch.dtype] = []
    unit.spectrum.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert unit(x).dtype == torch.bfloat16
    assert unit.half()(x.half()).dtype == torch.float16
    assert seen == [torch.complex64, torch.complex64]


@each_boundary
@pytest.mark.parametrize(("geometry", "options"), PLACES[:3], ids=str)
def test_fused_absorbs_an_affine_map(geometry: dict[str, Any], options: dict[str, Any], boundary: str) -> None:
    unit = randomised(NIFFConv2d(**geometry, **options, boundary=boundary, **DOUBLE))
    fused = unit.fuse()
    assert isinstance(fused, FusedNIFF)
    scale, shift = torch.randn(2, 4, **DOUBLE)
    x = torch.randn(2, unit.in_channels, 6, 9, **DOUBLE)
    fused(x)
    fused.fold_affine(scale, shift)
    expected = unit(x) * scale[:, None, None] + shift[:, None, None]
    assert (fused(x) - expected).abs().max() < 1e-12 * expected.abs().max().clamp(min=1)


@each_boundary
@pytest.mark.parametrize(("geometry", "options"), PLACES[:3], ids=str)
def test_a_cropped_kernel_says_what_it_keeps(geometry: dict[str, Any], options: dict[str, Any], boundary: str) -> None:
    unit = NIFFConv2d(**geometry, **options, boundary=boundary, **DOUBLE).eval()
    size = (9, 12)
    whole, cropped = unit.spatial(size), unit.spatial(size, crop=5)
    assert torch.allclose(whole.energy, torch.ones(1, **DOUBLE))
    assert torch.allclose(whole.mass, torch.ones(1, **DOUBLE))
    conv = cropped.module if isinstance(cropped.module, nn.Conv2d) else cropped.module[0]
    assert conv.kernel_size == (5, 5)
    assert conv.padding_mode == ("circular" if boundary == "circular" else "zeros")
    kernels = whole.module if isinstance(whole.module, nn.Conv2d) else whole.module[0]
    energy = conv.weight.square().sum((2, 3)) / kernels.weight.square().sum((2, 3))
    mass = conv.weight.abs().sum((2, 3)) / kernels.weight.abs().sum((2, 3))
    assert torch.allclose(cropped.energy, energy.flatten())
    assert torch.allclose(cropped.mass, mass.flatten())
    assert "energy kept" in str(cropped)
    # cropping is the zeroing of all other displacements
    reach = unit.effective_kernel(size, centred=True)
    inside = torch.zeros(size, **DOUBLE)
    inside[2:7, 4:9] = 1
    x = torch.randn(1, unit.in_channels, *size, **DOUBLE)
    kept = torch.roll(reach * inside, (-4, -6), (-2, -1))
    if unit.groups > 1:
        kept = torch.stack([torch.cat([k if i == c else 0 * k for i in range(4)]) for c, k in enumerate(kept)])
    expected = convolve_by_loops(x, kept.detach(), boundary == "circular") + unit.bias[:, None, None]
    assert (unit.fuse(size, crop=5)(x) - expected).abs().max() < 1e-10


def test_start_keeps_the_energy_of_the_hosts_kernels() -> None:
    for geometry, options in PLACES[:3]:
        conv = nn.Conv2d(**geometry, **DOUBLE)
        nn.init.normal_(conv.weight, std=0.7)
        unit = NIFFConv2d.fresh_like(conv, **options)
        energy = unit.effective_kernel(32).square().sum((1, 2, 3))
        assert torch.allclose(energy, conv.weight.square().sum((1, 2, 3)))
        assert torch.equal(unit.bias, conv.bias)


def test_reference_size_keeps_the_kernels_at_another_size() -> None:
    torch.manual_seed(0)
    plain = NIFFConv2d(**DEPTHWISE, **DOUBLE)
    scaled = NIFFConv2d(**DEPTHWISE, reference_size=16, **DOUBLE)
    scaled.load_state_dict(with_marks(scaled, plain.state_dict()))
    x = torch.randn(1, 4, 16, 16, **DOUBLE)
    assert torch.equal(plain(x), scaled(x))
    errors = [resampling_error(unit, (16, 16), (32, 32)) for unit in (plain, scaled)]
    assert resampling_error(plain, (16, 16), (16, 16)) == 0
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride": 2}, "stride"),
        ({"padding": 1}, "padding"),
        ({"padding": "valid"}, "padding"),
        ({"kernel_size": 1, "padding": 0}, "1x1"),
        ({"in_channels": 4, "groups": 2}, "groups"),
        ({"in_channels": 4, "out_channels": 8, "groups": 4}, "groups"),
    ],
)
def test_places_it_cannot_stand_in(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NIFFConv2d(**(DENSE | changes))
    reason = NIFFConv2d.supports(nn.Conv2d(**(DENSE | changes)))
    assert reason is not None
    assert message in reason


@pytest.mark.parametrize("geometry", [{"padding": "same", "dilation": 2}, {"kernel_size": (1, 7), "padding": (0, 3)}])
def test_places_it_can_stand_in(geometry: dict[str, Any]) -> None:
    assert NIFFConv2d.supports(nn.Conv2d(**(DENSE | geometry))) is None
    assert NIFFConv2d(**(DENSE | geometry))(torch.zeros(1, 3, 6, 5)).shape == (1, 4, 6, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "depthwise"}, "'split', 'full'"),
        ({"mlp": "huge"}, "'tiny', 'small', 'big'"),
        ({"boundary": "reflect"}, "'circular', 'zero'"),
        ({"reference_size": 0}, "at least 1"),
        ({"reference_size": (3, 4, 5)}, "at least 1"),
        ({"imag_bias": 2}, "True, False"),
        ({"init": "host"}, "'scaled', 'paper'"),
    ],
)
def test_wrong_options_say_what_is_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NIFFConv2d(**DENSE, **options)


@pytest.mark.parametrize(("geometry", "options"), PLACES[:3], ids=str)
def test_wrong_inputs_are_refused_as_by_a_convolution(geometry: dict[str, Any], options: dict[str, Any]) -> None:
    """Products of spectra would broadcast a single channel, and convert any type."""
    unit = NIFFConv2d(**geometry, **options)
    channels = unit.in_channels
    for module in (unit, unit.fuse()):
        for shape in ((2, 1, 8, 8), (2, channels + 1, 8, 8), (8, 8), (1, 8, 8), (1, 1, channels, 8, 8)):
            with pytest.raises(ValueError, match=rf"input of shape \({shape[0]}.*\(N, {channels}, H, W\)"):
                module(torch.zeros(shape))
        for dtype in (torch.float64, torch.int64):
            with pytest.raises(ValueError, match=f"input of {dtype} .* torch.float32"):
                module(torch.zeros(2, channels, 8, 8, dtype=dtype))
        assert module(torch.zeros(channels, 8, 8)).shape == (unit.out_channels, 8, 8)


def test_wrong_sizes_and_crops() -> None:
    unit = NIFFConv2d(**DENSE)
    for arguments, message in (
        (((8, 8), 4), "crop=4"),
        (((8, 8), 9), "crop=9"),
        ((None, 3), "needs size="),
        (((8, 8.5), None), "whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            unit.fuse(arguments[0], crop=arguments[1])
    assert resampling_error(unit, 8, 9) == resampling_error(unit, (8, 8), (9, 9))
    for sizes, message in (((0, 8), "trained=0"), ((8, (8, 9, 10)), r"size=\(8, 9, 10\)")):
        with pytest.raises(ValueError, match=message):
            resampling_error(unit, *sizes)
