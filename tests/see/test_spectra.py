"""Spectra and kernel mass on kernels and maps whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import convswap
from convswap.see import LayerKernels, kernel_spectrum, layer_kernels, map_spectra, map_spectrum, mass_by_stage


def wave(size: int, across: float, down: float) -> Tensor:
    y, x = torch.meshgrid(*[torch.arange(size, dtype=torch.float64)] * 2, indexing="ij")
    return torch.cos(2 * math.pi * (across * x + down * y))


def test_the_identity_has_a_flat_spectrum() -> None:
    w = torch.zeros(2, 3, 3)
    w[:, 1, 1] = torch.tensor([5.0, -0.1])
    found = kernel_spectrum(w)
    torch.testing.assert_close(found.power, torch.ones(64, 64, dtype=torch.float64))
    torch.testing.assert_close(found.radial, torch.ones_like(found.radial))
    assert found.dc == pytest.approx(1)
    line = torch.fft.fftfreq(64, dtype=torch.float64)
    radius = torch.hypot(line[:, None], line[None])
    assert found.centroid == pytest.approx(float(radius.mean()))
    assert found.high == pytest.approx(float((radius > 0.25).double().mean()))
    assert found.kernels == 2


def test_two_taps() -> None:
    # |1 + exp(-2 pi i f)|^2 / 2 = 1 + cos(2 pi f) along the row, the same in every row.
    found = kernel_spectrum(torch.tensor([[0.0, 3.0, 3.0]]))
    line = torch.fft.fftshift(torch.fft.fftfreq(64, dtype=torch.float64))
    torch.testing.assert_close(found.power, (1 + torch.cos(2 * math.pi * line)).expand(64, 64))
    assert found.dc == pytest.approx(math.sqrt(2))
    assert kernel_spectrum(torch.tensor([[0.0, 3.0, 3.0]]), normalize="max").dc == pytest.approx(1)
    assert kernel_spectrum(torch.tensor([[0.0, 3.0, 3.0]]), normalize="none").dc == pytest.approx(6)


@pytest.mark.parametrize(
    ("across", "down", "frequency", "sector"),
    [(0.125, 0, 0.125, 0), (0, 0.25, 0.25, 4), (0.25, 0.25, 0.25 * math.sqrt(2), 2), (0.25, -0.25, 0.3536, 6)],
)
def test_a_wave_stands_where_it_belongs(across: float, down: float, frequency: float, sector: int) -> None:
    found = kernel_spectrum(wave(64, across, down)[None])
    assert found.centroid == pytest.approx(frequency, abs=1e-4)
    assert float(found.orientation[sector]) == pytest.approx(1)
    assert found.high == pytest.approx(float(frequency > 0.25))
    assert float(found.frequency[found.radial.argmax()]) == pytest.approx(frequency, abs=0.5 / 64)
    assert found.dc == pytest.approx(0, abs=1e-9)


def test_kernels_of_zeros_do_not_count() -> None:
    assert kernel_spectrum(torch.stack([torch.zeros(3, 3), torch.ones(3, 3)])).kernels == 1
    with pytest.raises(ValueError, match="all kernels are zero"):
        kernel_spectrum(torch.zeros(2, 3, 3))
    with pytest.raises(ValueError, match="do not fit into size=2"):
        kernel_spectrum(torch.ones(3, 3), size=2)
    with pytest.raises(ValueError, match="normalize='sum'"):
        kernel_spectrum(torch.ones(3, 3), normalize="sum")


def test_map_spectrum_of_a_wave_and_of_noise() -> None:
    # A constant of 10 and a wave of amplitude 1: half of the wave's amplitude at f and at -f.
    maps = (10 + wave(32, 0.25, 0))[None, None]
    found = map_spectrum(maps)
    ring = round(0.25 * 32)
    points = found.log_amplitude[ring]
    assert found.log_amplitude[0] == pytest.approx(0)
    assert float(points) == float(found.log_amplitude[1:].max())
    white = torch.zeros(1, 1, 32, 32)
    white[0, 0, 3, 5] = 1
    torch.testing.assert_close(map_spectrum(white).log_amplitude, torch.zeros(24, dtype=torch.float64))
    assert map_spectrum(white).at_half == pytest.approx(0)


def test_map_spectrum_at_one_frequency() -> None:
    maps = (10 + wave(4, 0.5, 0.5))[None, None]  # one point holds the wave: amplitude 16 of 160 at (0.5, 0.5)
    found = map_spectrum(maps)
    assert float(found.frequency[-1]) == pytest.approx(0.75)
    assert float(found.log_amplitude[-1]) == pytest.approx(math.log10(16 / 160), abs=1e-4)


def test_map_spectra_leave_out_what_has_none() -> None:
    maps = {
        "a": torch.randn(2, 3, 8, 6),
        "b": torch.randn(2, 3),
        "c": torch.randn(2, 3, 1, 1),
        "d": torch.zeros(1, 1, 4, 4),
    }
    assert list(map_spectra(maps)) == ["a"]
    with pytest.raises(ValueError, match="have no spectrum"):
        map_spectrum(maps["c"])
    with pytest.raises(ValueError, match="all feature maps are zero"):
        map_spectrum(maps["d"])


def test_mass_by_stage() -> None:
    centre = torch.zeros(4, 1, 5, 5, dtype=torch.float64)
    centre[:, 0, 2, 2] = 1
    flat = torch.ones(4, 1, 5, 5, dtype=torch.float64)
    layers = [
        LayerKernels("a", "", centre, "weight", (1, 1), (1, 1), True, 0),
        LayerKernels("b", "", flat, "weight", (1, 1), (1, 1), True, 0),
        LayerKernels("c", "", flat, "weight", (2, 2), (1, 1), True, 1),
        LayerKernels("d", "", torch.ones(1, 1, 3, 3, dtype=torch.float64), "weight", (1, 1), (2, 2), True, 1),
    ]
    first, second = mass_by_stage(layers)
    assert first.layers == ("a", "b")
    assert first.mass.mean(1)[0] == pytest.approx((1 + 1 / 25) / 2)
    assert first.mass.mean(3)[0] == pytest.approx((1 + 9 / 25) / 2)
    assert first.mass.mean(5)[0] == pytest.approx(1)
    assert first.components is not None
    assert first.components.explained.tolist()[0] == pytest.approx(1)  # all differ along one line
    assert (second.layers, second.size, second.components) == (("d",), (5, 5), None)
    assert second.mass.mean(3)[0] == pytest.approx(1 / 9)
    assert len(mass_by_stage(layers, strided=True)) == 2


def test_frequency_filters_show_their_kernels_as_large_as_the_map() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)).double()
    images = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    model = convswap.swap(model, "niff", where="0", boundary="circular", start="fresh", example_input=images).eval()
    layer = layer_kernels(model, images)[0]
    assert (layer.origin, layer.weight.shape[1:]) == ("frequency filter", (1, 7, 6))
    around = torch.nn.functional.pad(images, (3, 2, 3, 3), mode="circular")
    torch.testing.assert_close(model(images).detach(), torch.nn.functional.conv2d(around, layer.weight, groups=4))
