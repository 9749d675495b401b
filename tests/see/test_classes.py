"""Kernel classes, DC gain, aliasing and atlas on kernels whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from convswap.see import (
    CLASSES,
    LayerKernels,
    aliasing_energy,
    classes_by_stage,
    classify_kernels,
    classify_layer,
    dc_gain,
    kernel_atlas,
    low_pass,
    upright,
)
from convswap.see.lowpass import spread


def gaussian(size: int, sigma: float) -> Tensor:
    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    line = torch.exp(-(x**2) / (2 * sigma**2))
    return torch.outer(line, line)


def delta(size: int) -> Tensor:
    w = torch.zeros(size, size, dtype=torch.float64)
    w[size // 2, size // 2] = 1
    return w


SOBEL = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64)
FOUR = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]], dtype=torch.float64)
EIGHT = torch.tensor([[-1.0, -2, -1], [-2, 12, -2], [-1, -2, -1]], dtype=torch.float64)


def layer(weight: Tensor, stride: int = 1, stage: int | None = 0, name: str = "x") -> LayerKernels:
    return LayerKernels(name, "", weight, "weight", (stride, stride), (1, 1), weight.shape[1] == 1, stage)


@pytest.mark.parametrize("scale", [1.0, -3.0, 1e-6])
@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        (gaussian(3, 1.1), "gaussian"),
        (gaussian(3, 0.6), "gaussian"),
        (gaussian(5, 2.0), "gaussian"),
        (gaussian(4, 1.0), "gaussian"),
        (torch.ones(3, 3), "gaussian"),
        (delta(3), "identity"),
        (delta(7), "identity"),
        (SOBEL, "edge"),
        (SOBEL.T, "edge"),
        (0.6 * SOBEL + 0.8 * SOBEL.T, "edge"),
        (FOUR, "edge"),
        (EIGHT, "edge"),
        (delta(3) - gaussian(3, 1.0) / gaussian(3, 1.0).sum(), "edge"),
        (torch.outer(torch.tensor([-2.0, -1, 0, 1, 2]), torch.tensor([1.0, 4, 6, 4, 1])), "edge"),
        (torch.tensor([[1.0, -1, 1], [-1, 0, -1], [1, -1, 1]]), "other"),
        (torch.zeros(3, 3), "other"),
    ],
)
def test_known_kernels(kernel: Tensor, name: str, scale: float) -> None:
    found = classify_kernels(scale * kernel[None])
    assert CLASSES[found.labels[0]] == name
    assert found.counts == {other: int(other == name) for other in CLASSES}


def test_similarity_is_the_cosine() -> None:
    # With n of length 1 and orthogonal to the centre tap, the cosine of a delta + b n to the centre tap is a.
    w = 0.8 * delta(3)
    w[0, 0] = 0.6
    found = classify_kernels(w[None])
    assert float(found.similarity[0, 1]) == pytest.approx(0.8)
    # To the plane of the Sobel filters the length of the projection: of a Sobel filter in any rotation, 1.
    angle = torch.linspace(0, math.pi, 7, dtype=torch.float64)[:, None, None]
    turned = angle.cos() * SOBEL + angle.sin() * SOBEL.T
    torch.testing.assert_close(classify_kernels(turned).similarity[:, 2], torch.ones(7, dtype=torch.float64))


def test_threshold() -> None:
    w = torch.zeros(3, 3, dtype=torch.float64)
    w[1, 1], w[0, 0] = 0.75, math.sqrt(1 - 0.75**2)
    assert CLASSES[classify_kernels(w[None]).labels[0]] == "other"
    assert CLASSES[classify_kernels(w[None], threshold=0.7).labels[0]] == "identity"
    with pytest.raises(ValueError, match="threshold=0 is not allowed"):
        classify_kernels(w[None], threshold=0)
    with pytest.raises(ValueError, match="no shape to classify"):
        classify_kernels(torch.ones(4, 1, 3))


def test_noise_is_mostly_other() -> None:
    noise = torch.randn(2000, 5, 5, generator=torch.Generator().manual_seed(0))
    assert classify_kernels(noise).shares["other"] > 0.99


def test_classes_by_stage_add_up() -> None:
    first = layer(torch.stack([SOBEL, FOUR, delta(3)])[:, None], stage=0)
    second = layer(torch.stack([gaussian(3, 1.0), -gaussian(3, 1.0)])[:, None], stride=2, stage=1)
    third = layer(delta(3)[None, None], stage=0)
    counted = classes_by_stage([first, second, third])
    assert [(row.stage, row.role) for row in counted] == [(0, "depthwise"), (1, "strided depthwise")]
    assert counted[0].counts == {"gaussian": 0, "identity": 2, "edge": 2, "other": 0}
    assert counted[1].shares["gaussian"] == 1
    assert classify_layer(layer(torch.ones(5, 1, 1, 3))).counts["other"] == 5


def test_dc_gain() -> None:
    kernels = torch.stack([gaussian(3, 1.0), -gaussian(3, 1.0), SOBEL, delta(3), torch.zeros(3, 3), EIGHT])
    found = dc_gain(kernels)
    assert found[:4].tolist() == pytest.approx([1, 1, 0, 1])
    assert found[4].isnan()
    assert float(found[5]) == pytest.approx(0)
    assert float(dc_gain(torch.tensor([[3.0, -1.0]]))) == pytest.approx(0.5)


def test_aliasing_of_the_identity_is_the_area_outside() -> None:
    # |f| < 1/4 holds for 31 of the 64 frequencies of an axis.
    assert float(aliasing_energy(delta(3))) == pytest.approx(1 - (31 / 64) ** 2)
    assert float(aliasing_energy(delta(3), 1)) == pytest.approx(1 - (63 / 64) ** 2)
    assert float(aliasing_energy(delta(3), (1, 2))) == pytest.approx(1 - 63 / 64 * 31 / 64)


def test_aliasing_by_a_naive_transform() -> None:
    w = torch.randn(3, 3, dtype=torch.float64)
    inside = total = 0.0
    for u in range(64):
        for v in range(64):
            fu, fv = ((k if k < 32 else k - 64) / 64 for k in (u, v))
            wave = sum(
                complex(w[r, c]) * complex(math.cos(a := -2 * math.pi * (fu * r + fv * c)), math.sin(a))
                for r in range(3)
                for c in range(3)
            )
            total += abs(wave) ** 2
            inside += abs(wave) ** 2 if abs(fu) < 0.25 and abs(fv) < 0.25 else 0.0
    assert float(aliasing_energy(w)) == pytest.approx(1 - inside / total)


def test_smoothing_lowers_aliasing_and_edges_raise_it() -> None:
    smooth, sharp = aliasing_energy(gaussian(5, 1.5)), aliasing_energy(EIGHT)
    assert float(smooth) < 0.05
    assert float(sharp) > 0.9
    with pytest.raises(ValueError, match="stride=0"):
        aliasing_energy(SOBEL, 0)
    with pytest.raises(ValueError, match="size=2"):
        aliasing_energy(SOBEL, size=2)


def test_low_pass_of_layers() -> None:
    strided = layer(gaussian(3, 1.0)[None, None].repeat(4, 1, 1, 1), stride=2, name="down")
    edges = layer(SOBEL[None, None], name="edge")
    down, edge = low_pass([strided, edges])
    assert (down.name, down.stride, down.role) == ("down", (2, 2), "strided depthwise")
    assert down.mean_gain == pytest.approx(1)
    assert edge.stride == (2, 2)
    assert edge.mean_gain == pytest.approx(0)
    assert down.mean_aliasing < edge.mean_aliasing


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_the_aliasing_of_a_layer_is_that_of_its_own_stride(stride: int) -> None:
    kernels = torch.stack([gaussian(7, 1.5), delta(7)])[:, None]
    (found,) = low_pass([layer(kernels, stride=stride)])
    assert found.stride == (max(stride, 2),) * 2
    torch.testing.assert_close(found.aliasing.flatten(), aliasing_energy(kernels, max(stride, 2)).flatten())
    if stride > 2:
        assert (found.aliasing.flatten() > aliasing_energy(kernels, 2).flatten()).all()


def test_spread_writes_dilation_out() -> None:
    wide = spread(torch.ones(2, 3, 3), (2, 1))
    assert wide.shape == (2, 5, 3)
    assert wide.sum() == 18
    assert wide[:, 1].sum() == 0


def test_upright() -> None:
    found = upright(torch.stack([-2 * gaussian(3, 1.0), -SOBEL, torch.zeros(3, 3)]))
    assert float(found[0].max()) == pytest.approx(1)
    assert float(found[0].min()) > 0
    assert float(found[1].abs().max()) == pytest.approx(1)
    torch.testing.assert_close(upright(-found), found)
    assert float(found[2].abs().max()) == 0


def test_atlas_holds_every_kernel_sorted_by_class() -> None:
    kernels = torch.stack([SOBEL, delta(3), gaussian(3, 1.0), delta(3), torch.randn(3, 3, dtype=torch.float64)])
    atlas = kernel_atlas(layer(kernels[:, None]), columns=2)
    assert atlas.sheet.shape == (3 * 4 - 1, 2 * 4 - 1)
    assert atlas.labels.tolist() == sorted(atlas.classes.labels.tolist())
    torch.testing.assert_close(atlas.sheet[:3, :3], gaussian(3, 1.0))
    torch.testing.assert_close(atlas.sheet[:3, 4:], delta(3))
    assert atlas.sheet[3].isnan().all()
    assert atlas.sheet[8:, 4:].isnan().all()


def test_atlas_of_thousands_is_a_sample() -> None:
    atlas = kernel_atlas(layer(torch.randn(100, 100, 3, 3)), limit=1000)
    assert atlas.shown == len(atlas.labels) == 1000
    assert len(atlas.classes.labels) == 10_000
    assert int((~atlas.sheet.isnan()).sum()) == 9000


def test_the_gain_has_no_sign() -> None:
    assert float(dc_gain(torch.tensor([[-3.0, 1.0]]))) == pytest.approx(0.5)
