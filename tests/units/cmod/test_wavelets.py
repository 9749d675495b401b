"""The dual-tree wavelet packets against the cascade they stand for, the authors' tensors and constants."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from convswap.units import DtCwpt2d
from convswap.units.cmod.parts import ARCHES
from convswap.units.cmod.wavelets import (
    QSHIFT_A,
    TAPS,
    equivalent_filters,
    packet_bank,
    packet_kernels,
    stage_filters,
    transform_padding,
)

DOUBLE: Any = {"dtype": torch.float64}


@pytest.mark.parametrize("name", ["case_dtcwpt_d2_s2", "case_dtcwpt_d2_s4"])
def test_golden(golden, name):
    reference = golden("cmod")[name]
    transform = DtCwpt2d(reference["config"]["depth"], reference["config"]["stride"], **DOUBLE)
    assert (transform.padding,) * 2 == tuple(reference["padding"])
    torch.testing.assert_close(transform(reference["input"]), reference["output"], rtol=0, atol=1e-13)


def test_filters_are_the_librarys(golden):
    qshift = golden("cmod")["constants"]["qshift_a"]
    filters = stage_filters()
    assert list(QSHIFT_A) == qshift["h0a"].tolist()
    for ours, theirs in (("h1", "h0b"), ("g1", "h1b"), ("h2", "h0a"), ("g2", "h1a"), ("h", "h0b"), ("g", "h1b")):
        assert torch.equal(filters[ours], qshift[theirs])
    zeros = torch.zeros(2, **DOUBLE)
    h, g = qshift["h0b"], qshift["h1b"]
    assert torch.equal(filters["h1fs"], torch.cat([zeros, h]))
    assert torch.equal(filters["h2fs"], torch.cat([zeros[:1], h, zeros[:1]]))
    assert torch.equal(filters["g1fs"], torch.cat([g, zeros]))
    assert torch.equal(filters["g2fs"], torch.cat([zeros[:1], -g, zeros[:1]]))


def test_tables_are_the_authors(golden):
    constants = golden("cmod")["constants"]
    resnet, alexnet = ARCHES["resnet"].selections, ARCHES["alexnet"].selections
    for ours, theirs, suffix in (
        (resnet["full"], constants["resnet"], ""),
        (resnet["excluded"], constants["resnet"], "_ex"),
        (alexnet["full"], constants["alexnet"], ""),
    ):
        assert list(ours.packets) == theirs[f"permute{suffix}"]
        assert list(ours.inputs) == theirs[f"split_in{suffix}"]
        assert list(ours.outputs) == theirs[f"split_out{suffix}"]
        assert list(ours.groups) == theirs[f"groups{suffix}"]
    for arch in ("resnet", "alexnet"):
        assert list(ARCHES[arch].luminance) == pytest.approx(constants[arch]["colormix"].tolist(), abs=1e-12)
    for depth, negated in constants["neg_fourier_support"].items():
        assert conjugated(depth) == negated.tolist()


def conjugated(depth: int) -> list[bool]:
    """Which packets turn the other way than the definition of Psi_a and Psi_b, read off our kernels."""
    a, b = (torch.einsum("ry,cx->rcyx", v, h) for v, h in _trees(depth))
    c, d = (torch.einsum("ry,cx->rcyx", v, h) for v, h in _trees(depth, crossed=True))
    found = []
    for k in range(2 * 4**depth):
        row, column = _digits(k % 4**depth, depth)
        sign = -1 if k < 4**depth else 1
        defined = d[row, column] - sign * c[row, column]
        ours = packet_kernels(packet_bank(depth, (k,)))[0]
        torch.testing.assert_close(ours[0], a[row, column] + sign * b[row, column], rtol=0, atol=1e-14)
        if negated := bool(((ours[1] + defined).abs() < 1e-13).all()):
            found.append(negated)
        else:
            torch.testing.assert_close(ours[1], defined, rtol=0, atol=1e-13)
            found.append(False)
    return found


def _trees(depth: int, crossed: bool = False) -> list[tuple[Tensor, Tensor]]:
    one, two = equivalent_filters(depth)
    return [(one, two), (two, one)] if crossed else [(one, one), (two, two)]


def _digits(packet: int, depth: int) -> tuple[int, int]:
    bits = [(packet >> 2 * stage) & 3 for stage in reversed(range(depth))]
    row = sum((bit >> 1) << n for n, bit in enumerate(reversed(bits)))
    return row, sum((bit & 1) << n for n, bit in enumerate(reversed(bits)))


def cascade(x: Tensor, depth: int, stride: int) -> Tensor:
    """The transform as the paper draws it, stage by stage with loops: one image (H, W) to (4 * 4**depth, H', W')."""
    filters = stage_filters()
    follows = {
        "h1fs": "h1 g1", "g1fs": "h2 g2", "h2fs": "h2 g2", "g2fs": "h1 g1",
        "h1": "h1 g1", "g1": "h g", "h2": "h2 g2", "g2": "h g", "h": "h g", "g": "h g",
    }  # fmt: skip
    padding = transform_padding(depth, stride)
    image = torch.nn.functional.pad(x, (padding,) * 4)

    def along_rows(image: Tensor, taps: Tensor, step: int, dilation: int) -> Tensor:
        reach = dilation * (len(taps) - 1)
        places = range(0, image.shape[1] - reach, step)
        return torch.stack([image[:, n : n + reach + 1 : dilation] @ taps for n in places], 1)

    trees = {}
    for v, h in ("11", "12", "21", "22"):
        maps = [(f"start{v}", f"start{h}", image)]
        step_left, dilation = stride, 1
        for _ in range(depth):
            step = 2 if step_left > 1 else 1
            grown = []
            for vertical, horizontal, one in maps:
                pairs = [
                    f"h{n[-1]}fs g{n[-1]}fs" if n.startswith("start") else follows[n] for n in (vertical, horizontal)
                ]
                for first in pairs[0].split():
                    down = along_rows(one.T, filters[first], step, dilation).T
                    grown += [
                        (first, second, along_rows(down, filters[second], step, dilation))
                        for second in pairs[1].split()
                    ]
            maps, step_left, dilation = grown, step_left // 2, dilation * (3 - step)
        trees[v + h] = torch.stack([one for _, _, one in maps])
    psi_a = torch.complex(trees["11"] - trees["22"], trees["21"] + trees["12"])
    psi_b = torch.complex(trees["11"] + trees["22"], trees["21"] - trees["12"])
    return torch.cat([psi_a, psi_b])


@pytest.mark.parametrize(("depth", "stride"), [(2, 1), (2, 2), (2, 4), (3, 2), (3, 4), (3, 8)])
def test_is_the_cascade_of_stages_on_rectangles(depth, stride, golden):
    torch.manual_seed(0)
    x = torch.randn(2, 2, 9, 14, **DOUBLE)
    negated = golden("cmod")["constants"]["neg_fourier_support"][depth]
    found = DtCwpt2d(depth, stride, **DOUBLE)(x).view(2, 2, -1, 2, *_size(x, depth, stride))
    for n in range(2):
        for channel in range(2):
            expected = cascade(x[n, channel], depth, stride)
            expected = torch.where(negated[:, None, None], expected.conj(), expected)
            torch.testing.assert_close(torch.view_as_real(expected).movedim(-1, 1), found[n, channel])


def _size(x: Tensor, depth: int, stride: int) -> tuple[int, ...]:
    padding = transform_padding(depth, stride)
    return tuple((side + 2 * padding - TAPS[depth]) // stride + 1 for side in x.shape[-2:])


def test_a_square_input_turned_is_the_packets_of_swapped_frequencies():
    """Down the columns is treated as along the rows: on a turned image the bank holds the turned packets."""
    x = torch.randn(1, 1, 21, 34, **DOUBLE)
    transform = DtCwpt2d(2, 2, **DOUBLE)
    ours = transform(x).view(32, 2, 10, 17)
    turned = transform(x.mT).view(32, 2, 17, 10).mT
    for k in range(16):
        row, column = _digits(k, 2)
        other = sum((((row >> s & 1) * 1 + (column >> s & 1) * 2) << 2 * s) for s in range(2))
        torch.testing.assert_close(turned[other, 0], ours[k, 0], rtol=0, atol=1e-12)
        torch.testing.assert_close(turned[other, 1].abs(), ours[k, 1].abs(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("depth", [2, 3])
def test_kernels_have_energy_four_and_one_sided_spectra(depth):
    kernels = packet_kernels(packet_bank(depth, tuple(range(2 * 4**depth))))
    assert kernels.shape == (2 * 4**depth, 2, TAPS[depth], TAPS[depth])
    torch.testing.assert_close(kernels.square().sum((1, 2, 3)), torch.full((len(kernels),), 4.0, **DOUBLE))
    spectrum = torch.fft.fft2(torch.complex(*kernels.unbind(1)), (128, 128)).abs().square()
    mirrored = spectrum.flip(1, 2).roll((1, 1), (1, 2))
    selected = list(ARCHES["resnet" if depth == 2 else "alexnet"].selections["full"].packets)
    both = torch.minimum(spectrum, mirrored).sum((1, 2)) / spectrum.sum((1, 2))
    assert float(both[selected].max()) < 0.35
    assert float(both[selected].median()) < 0.05


def test_peak_frequencies_are_the_notes():
    kernels = packet_kernels(packet_bank(2, tuple(range(32))))
    spectrum = torch.fft.fft2(torch.complex(*kernels.unbind(1)), (96, 96)).abs()
    frequencies = torch.fft.fftfreq(96)
    for packet, expected in {
        1: (0.08, 0.17), 2: (0.17, 0.08), 3: (0.17, 0.17), 5: (0.08, 0.33), 7: (0.17, 0.33), 10: (0.33, 0.08),
        11: (0.33, 0.17), 15: (0.33, 0.33), 17: (0.08, 0.17), 18: (0.17, 0.08), 21: (0.08, 0.33), 26: (0.33, 0.08),
    }.items():  # fmt: skip
        row, column = divmod(int(spectrum[packet].argmax()), 96)
        found = abs(frequencies[row].item()), abs(frequencies[column].item())
        assert found == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth": 4}, "depth=4 .* 2, 3"),
        ({"depth": 2, "stride": 8}, "stride=8 .* 1, 2, 4"),
        ({"stride": 3}, "stride=3"),
    ],
)
def test_wrong_options_say_what_is_allowed(options, words):
    with pytest.raises(ValueError, match=words):
        DtCwpt2d(**options)


def test_moves_and_keeps_its_filters_exact():
    transform = DtCwpt2d(2, 2, **DOUBLE)
    x = torch.randn(1, 3, 12, 10, **DOUBLE)
    expected = transform(x)
    assert transform(x.half().double()).dtype == torch.float64
    assert DtCwpt2d(2, 2).half()(x.half()).dtype == torch.float16
    torch.testing.assert_close(transform.half().double()(x), expected, rtol=0, atol=0)
    assert DtCwpt2d(2, 2, device="meta")(x.float().to("meta")).shape == expected.shape
    assert not transform.state_dict()
