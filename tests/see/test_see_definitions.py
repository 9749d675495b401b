"""Definitions of the pictures' numbers against loops written from the formula, and before against after fusing."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from torch import Tensor, nn

import convswap
from convswap.measure.kernel_mass import kernel_components, kernel_mass
from convswap.see import (
    ReceptiveField,
    biased_cka,
    kernel_spectrum,
    layer_kernels,
    map_spectrum,
    mass_by_stage,
    mean_cosine,
    receptive_field,
)


def strided() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 5, stride=2, padding=2), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1)]
    model = nn.Sequential(*layers, nn.ReLU()).double()
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean.uniform_(-0.3, 0.3)  # type: ignore[union-attr]
    norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    return model.eval()


@pytest.mark.parametrize("gradient", ["positive", "absolute"])
def test_a_receptive_field_by_moving_every_pixel(gradient: str) -> None:
    """The gradient of the middle unit of a strided network, from differences of its value, pixel by pixel."""
    model, images, step = strided(), torch.randn(2, 2, 10, 12, dtype=torch.float64), 1e-6

    @torch.no_grad()
    def score(x: Tensor) -> float:
        middle = model(x)[0, :, 5 // 2, 6 // 2]  # the map is 5 x 6
        return float(middle.relu().sum() if gradient == "positive" else middle.sum())

    wanted = torch.zeros(10, 12, dtype=torch.float64)
    for image in images.split(1):
        for channel in range(2):
            for row in range(10):
                for column in range(12):
                    moved = image.clone()
                    moved[0, channel, row, column] += step
                    slope = (score(moved) - score(image)) / step
                    wanted[row, column] += (max(slope, 0.0) if gradient == "positive" else abs(slope)) / 2
    found = receptive_field(model, images, gradient=gradient)
    torch.testing.assert_close(found.contribution, wanted, atol=1e-6, rtol=1e-5)
    assert wanted.count_nonzero() > 20


def test_the_three_transforms_by_hand() -> None:
    """A = 99 and 9: log10(100) = 2 and log10(10) = 1; by the largest: log10(2) and log10(12 / 11)."""
    a = torch.zeros(3, 3, dtype=torch.float64)
    a[1, 1], a[0, 2] = 99, 9
    field = ReceptiveField("x", a, 1, 0, 0, "positive")
    for transform, value in (("raw", 1 / 11), ("log", 1 / 2), ("log_normalised", math.log(12 / 11) / math.log(2))):
        found = field.values(transform)
        assert found[0, 2].item() == pytest.approx(value)
        assert (found[1, 1].item(), found[2, 0].item()) == (1, 0)
    assert field.size() == pytest.approx(math.sqrt(2))  # 9 is above 4.55 % of 99 = 4.5
    assert field.size(0.1) == 1  # and below a tenth
    # The middle 3 x 3 of 7 x 7 holds 9 of 49 for A = 1: 18 %, less than 20 %; 5 x 5 holds 51 %.
    flat = ReceptiveField("x", torch.ones(7, 7, dtype=torch.float64), 1, 0, 0, "positive")
    assert [flat.square(part, "raw").side for part in (0.18, 0.2, 0.51, 0.52)] == [3, 5, 5, 7]


def test_windows_of_the_authors_by_hand() -> None:
    """[c - i, c + i) of 4 x 4, c = 2: nothing, the four pixels (1..2, 1..2), everything."""
    kernel = torch.arange(1, 17, dtype=torch.float64).view(4, 4)
    kernel[0, 0] = -1.0  # magnitudes count
    found = kernel_mass(kernel, official=True).mass[0].tolist()
    assert found == pytest.approx([0, (6 + 7 + 10 + 11) / 136, 1])
    # Odd windows around (2, 2), which holds 11: then rows and columns 1 to 3, then all.
    odd = kernel_mass(kernel).mass[0].tolist()
    assert odd == pytest.approx([11 / 136, (6 + 7 + 8 + 10 + 11 + 12 + 14 + 15 + 16) / 136, 1])


def test_components_by_hand() -> None:
    """Kernels m + t a + s b along two orthogonal patterns: variances 4 of 5 and 1 of 5, the mean taken off."""
    m, a, b = (torch.zeros(2, 2, dtype=torch.float64) for _ in range(3))
    m[:], a[0, 0], b[1, 1] = 7.0, 1.0, 1.0
    kernels = torch.stack([m + 2 * a, m - 2 * a, m + b, m - b])
    found = kernel_components(kernels, 2)
    assert found.explained.tolist() == pytest.approx([0.8, 0.2])
    torch.testing.assert_close(found.mean, m)
    torch.testing.assert_close(found.components.abs(), torch.stack([a, b]))


def test_a_spectrum_by_a_naive_transform() -> None:
    """Power, rings, centroid, share above a quarter, DC and directions of two kernels, at 8 x 8 frequencies."""
    torch.manual_seed(1)
    size, kernels = 8, torch.randn(2, 3, 3, dtype=torch.float64)
    lines = [k / size for k in range(-size // 2, size // 2)]
    power: dict[tuple[float, float], float] = dict.fromkeys(((v, u) for v in lines for u in lines), 0.0)
    for kernel in kernels:
        length = math.sqrt(float(kernel.square().sum()))
        for v, u in power:
            taps = ((r, c) for r in range(3) for c in range(3))
            wave = sum(float(kernel[r, c]) * cmath.exp(-2j * math.pi * (v * r + u * c)) for r, c in taps)
            power[v, u] += abs(wave / length) ** 2 / 2
    found = kernel_spectrum(kernels, size=size)
    assert found.power.flatten().tolist() == pytest.approx([power[v, u] for v in lines for u in lines])
    total = sum(power.values())
    radius = {place: math.hypot(*place) for place in power}
    assert found.centroid == pytest.approx(sum(radius[place] * p for place, p in power.items()) / total)
    assert found.high == pytest.approx(sum(p for place, p in power.items() if radius[place] > 0.25) / total)
    gains = [abs(float(k.sum())) / math.sqrt(float(k.square().sum())) for k in kernels]
    assert found.dc == pytest.approx(sum(gains) / 2)
    for ring, value in enumerate(found.radial.tolist()):
        inside = [p for place, p in power.items() if abs(radius[place] * size - ring) < 0.5]
        assert value == pytest.approx(sum(inside) / len(inside))
        assert float(found.frequency[ring]) == ring / size
    sectors = [0.0] * 8
    for (v, u), p in power.items():
        if (v, u) != (0, 0):
            sectors[round(math.atan2(v, u) / math.pi * 8) % 8] += p
    assert found.orientation.tolist() == pytest.approx([s / sum(sectors) for s in sectors])


def test_a_spectrum_of_maps_by_a_naive_transform() -> None:
    maps = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    flat = maps.flatten(0, 1)
    lines = [0.0, 0.25, -0.5, -0.25]
    amplitude = torch.zeros(6, 4, 4, dtype=torch.float64)
    for index, image in enumerate(flat):
        for i, v in enumerate(lines):
            for j, u in enumerate(lines):
                pixels = ((r, c) for r in range(4) for c in range(4))
                wave = sum(float(image[r, c]) * cmath.exp(-2j * math.pi * (v * r + u * c)) for r, c in pixels)
                amplitude[index, i, j] = abs(wave)
    logs = (amplitude + 1e-6 * amplitude.max()).log10().mean(0)
    found = map_spectrum(maps)
    for ring, value in enumerate(found.log_amplitude.tolist()):
        places = [(i, j) for i in range(4) for j in range(4) if round(math.hypot(lines[i], lines[j]) * 4) == ring]
        assert value == pytest.approx(float(sum(logs[i, j] for i, j in places) / len(places) - logs[0, 0]))


def test_biased_cka_by_the_formula() -> None:
    """||X'Y||² / (||X'X|| ||Y'Y||), with centred columns."""
    x = torch.tensor([[1.0], [-1.0], [0.0]])
    y = torch.tensor([[1.0, 5.0], [-1.0, 5.0], [0.0, 5.0]])
    assert biased_cka(x, y) == pytest.approx(1)  # the constant column is taken off
    # Of y = (1, -1, 0) and (1, 1, -2): X'Y = (2, 0), X'X = 2, Y'Y = diag(2, 6): 4 / (2 sqrt(40)).
    y = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [0.0, -2.0]])
    assert biased_cka(x, y) == pytest.approx(4 / (2 * math.sqrt(40)))


def test_mean_cosine_by_hand() -> None:
    """(3, 4) against (4, 3): 24 / 25; against its opposite -1; what is zero tells nothing."""
    x = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])
    y = torch.tensor([[4.0, 3.0], [-2.0, 0.0], [1.0, 1.0]])
    assert mean_cosine(x, y) == pytest.approx((24 / 25 - 1) / 2)
    assert mean_cosine(x.view(3, 1, 1, 2), y.view(3, 1, 1, 2)) == mean_cosine(x, y)
    assert math.isnan(mean_cosine(x[2:], y[2:]))
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(2, 2\)"):
        mean_cosine(x, y[:2])


# Those whose fused form is one layer as the unit is; the others' convolutions are shown one by one.
ONE_LAYER = ["binary_weight", "circle", "circle_mix", "ghost", "ic", "niff", "sk"]


@pytest.mark.parametrize("unit", [*ONE_LAYER, "dendritic", "minimum"])
def test_fusing_changes_no_picture(unit: str) -> None:
    """Receptive field, spectrum and kernel mass of the training form in eval mode are those of the fused one."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1)]
    images = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    model = convswap.swap(nn.Sequential(*layers).double(), unit, where="0", start="fresh", example_input=images)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    model.eval()
    fused = convswap.fuse(model, images)
    before, after = (receptive_field(form, images, "3", gradient="absolute") for form in (model, fused))
    torch.testing.assert_close(before.contribution, after.contribution, atol=1e-9, rtol=1e-7)
    if unit not in ONE_LAYER:
        return
    first, second = (layer_kernels(form, images) for form in (model, fused))
    assert [layer.name for layer in first] == [layer.name for layer in second] == ["0", "3"]
    # The BatchNorm that is folded in scales each kernel, which neither normalised spectra nor mass ratios see.
    one, two = (kernel_spectrum(found[0].weight) for found in (first, second))
    torch.testing.assert_close(one.power, two.power, atol=1e-7, rtol=1e-6)
    for left, right in zip(mass_by_stage(first), mass_by_stage(second), strict=True):
        torch.testing.assert_close(left.mass.mass, right.mass.mass, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("unit", ["quantized", "xnor"])
def test_packed_binary_layers_show_their_signs_and_scales(unit: str) -> None:
    images = torch.randn(2, 8, 9, 9)
    layers = [nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
    model = convswap.swap(nn.Sequential(*layers), unit, where="2", start="fresh", example_input=images).eval()
    latent = model[2].weight.detach().double()
    layer = layer_kernels(convswap.fuse(model, images), images, layers=["2"])[0]
    assert layer.origin == "fused weight"
    torch.testing.assert_close(layer.weight.sign(), torch.where(latent >= 0, 1.0, -1.0).double())
    each = layer.weight.abs().flatten(1)
    torch.testing.assert_close(each, each[:, :1].expand_as(each))  # one scale for each output
