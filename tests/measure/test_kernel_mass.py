"""The kernel mass ratio and components against the golden figures, and on models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from convswap.measure.kernel_mass import kernel_components, kernel_mass, niff_kernel_mass
from convswap.units.niff.niff import NIFFConv2d

Golden = Callable[[str], dict[str, Any]]


def test_golden_windows(golden: Golden) -> None:
    case = golden("niff")["analysis_kernel_mass_pca"]
    expected = case["output"]
    count = len(expected["odd_windows_mean"])
    odd = kernel_mass(case["input"]).mass[:, :count]
    official = kernel_mass(case["input"], official=True).mass[:, :count]
    torch.testing.assert_close(odd.mean(0), expected["odd_windows_mean"], rtol=0, atol=1e-10)
    torch.testing.assert_close(official.mean(0), expected["official_even_windows_mean"], rtol=0, atol=1e-10)
    deviation = official.std(0, correction=0)
    torch.testing.assert_close(deviation, expected["official_even_windows_std_population"], rtol=0, atol=1e-10)


def test_golden_components(golden: Golden) -> None:
    case = golden("niff")["analysis_kernel_mass_pca"]
    expected = case["output"]
    found = kernel_components(case["input"])
    torch.testing.assert_close(found.explained, expected["pca_explained_variance_ratio"], rtol=0, atol=1e-10)
    torch.testing.assert_close(found.mean.flatten(), expected["pca_mean"].flatten(), rtol=0, atol=1e-10)
    theirs = expected["pca_components_7"].flatten(1)
    ours = found.components.flatten(1)
    sign = (ours * theirs).sum(1, keepdim=True).sign()
    torch.testing.assert_close(ours * sign, theirs, rtol=0, atol=1e-9)


def test_windows_of_a_rectangular_kernel() -> None:
    kernel = torch.zeros(5, 8)
    kernel[2, 4], kernel[2, 5], kernel[0, 0] = 1, -1, 2
    found = kernel_mass(kernel)
    assert found.sizes == (1, 3, 5, 7, 9)
    torch.testing.assert_close(found.mass, torch.tensor([[0.25, 0.5, 0.5, 0.5, 1]]).double())
    torch.testing.assert_close(found.energy, torch.tensor([[1, 2, 2, 2, 6]]).double() / 6)
    assert found.mean(3) == (0.5, pytest.approx(1 / 3))
    assert found.mean(99) == (1.0, 1.0)
    assert found.size_holding(0.5) == 9
    assert kernel_mass(torch.zeros(1, 3, 3)).mass.isnan().all()


def test_every_frequency_filter_of_a_model_at_the_size_it_sees() -> None:
    unit = NIFFConv2d(3, 4, 3, padding=1)
    model = nn.Sequential(unit, nn.AvgPool2d(2), NIFFConv2d(4, 4, 3, padding=1, groups=4)).train()
    before = model.training
    found = niff_kernel_mass(model, torch.zeros(1, 3, 10, 8))
    assert model.training == before
    assert set(found) == {"0", "2"}
    kernels = torch.roll(unit.spectrum.kernels((10, 8), torch.float64), (5, 4), (-2, -1))
    torch.testing.assert_close(found["0"].mass, kernel_mass(kernels).mass)
    assert found["2"].sizes[-1] == 5
    assert found["2"].mass.shape[0] == 4


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="no niff unit"):
        niff_kernel_mass(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="kernels of shape"):
        kernel_mass(torch.zeros(3))
    with pytest.raises(ValueError, match="count=9"):
        kernel_components(torch.zeros(3, 4, 4), count=9)
    with pytest.raises(ValueError, match=r"kernels of shape .*give \(K, H, W\)"):
        kernel_components(torch.zeros(20, 2, 4, 4))
    with pytest.raises(ValueError, match=r"count=2\.5"):
        kernel_components(torch.zeros(20, 4, 4), count=2.5)
    found = kernel_mass(torch.ones(3, 3))
    for size in (4, 0, 3.0, "3"):
        with pytest.raises(ValueError, match=f"size={size!r} is not allowed; give an odd whole number"):
            found.mean(size)
    for part in (0, 1.5, "most", float("nan")):
        with pytest.raises(ValueError, match=f"part={part!r} is not allowed; give a number from 0, excluded, to 1"):
            found.size_holding(part)
    assert found.size_holding(1) == 3
