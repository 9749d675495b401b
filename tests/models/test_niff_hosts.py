"""NIFF networks by `swap`: sane signals at the start, fused forms, and filters trained on real digits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convswap
from convswap.measure.kernel_mass import niff_kernel_mass
from convswap.units import FusedNIFF, NIFFConv2d


def deviations(model: nn.Module, kinds: type[nn.Module]) -> list[float]:
    """Deviation of the output over that of the input, for every such layer."""
    found: list[float] = []

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(float(output.detach().std() / args[0].detach().std()))

    handles = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, kinds)]
    model.train()(torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("options", [{}, {"form": "full"}, {"boundary": "zero"}], ids=str)
def test_a_deep_network_starts_like_its_host(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    host = convswap.create_model("cifar_resnet20", num_classes=10)
    plain = deviations(host, nn.Conv2d)
    model = convswap.swap(host, "niff", start="fresh", **options)
    ours = deviations(model, NIFFConv2d)
    assert len(ours) == 16  # 18 but the two with a stride
    assert min(plain) / 2 < min(ours)
    assert max(ours) < max(plain) * 1.5


def test_a_fused_network_is_equal_at_any_size() -> None:
    torch.manual_seed(0)
    model = convswap.swap(convswap.create_model("cifar_resnet20", num_classes=10), "niff", start="fresh")
    for _ in range(2):
        model.train()(torch.randn(8, 3, 32, 32))
    model.double().eval()
    fused = convswap.fuse(model, torch.randn(2, 3, 32, 32, dtype=torch.float64))
    assert sum(isinstance(m, FusedNIFF) for m in fused.modules()) == 16
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    with torch.no_grad():
        for size in ((32, 32), (24, 20), (33, 17)):
            x = torch.randn(2, 3, *size, dtype=torch.float64)
            assert torch.allclose(fused(x), model(x), rtol=1e-9, atol=1e-9)


def test_filters_learn_on_real_digits_and_their_energy_is_reported() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    y = torch.tensor(digits.target)
    torch.manual_seed(0)

    def layers(channels: int, out: int) -> list[nn.Module]:
        conv = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        return [NIFFConv2d.fresh_like(conv, boundary="zero"), nn.BatchNorm2d(out), nn.ReLU()]

    stem: list[nn.Module] = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    model = nn.Sequential(*stem, *layers(16, 16), *layers(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=200)
    before = niff_kernel_mass(model, x[:1])
    for step in range(200):
        rows = torch.arange(step * 64, step * 64 + 64) % 1400
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        right = float((model.eval()(x[1400:]).argmax(1) == y[1400:]).float().mean())
    assert right > 0.75
    after = niff_kernel_mass(model, x[:1])
    for path in ("3", "6"):
        parts = [after[path].mean(size)[1] for size in (1, 3, 5, 7, 9)]
        assert parts == sorted(parts)
        assert parts[-1] == pytest.approx(1)
        assert parts[0] < before[path].mean(1)[1], "the filters have learned to look around"
    whole, cropped = (model[3].spatial((8, 8), crop) for crop in (None, 3))
    assert float(cropped.energy.mean()) == pytest.approx(after["3"].mean(3)[1], abs=1e-6)
    with torch.no_grad():
        unit, maps = model[3], model[:3](x[:64])
        assert torch.allclose(whole.module(maps), unit(maps), atol=1e-4)
