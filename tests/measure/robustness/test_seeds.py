"""Every seed of the robustness room reaches its draws."""

from __future__ import annotations

import pytest
import torch

from convswap.measure.robustness import corruption
from convswap.measure.robustness.draws import Draws
from convswap.measure.robustness.paired import _bootstrap


@pytest.mark.parametrize("kind", ["normal", "uniform", "integers", "shared"])
def test_draws_follow_seed_name_and_image(kind: str) -> None:
    def drawn(seed: int, name: str, images: list[int]) -> torch.Tensor:
        draws = Draws(seed, name, images)
        return {
            "normal": lambda: draws.normal(4),
            "uniform": lambda: draws.uniform(0, 1, 4),
            "integers": lambda: draws.integers(0, 1 << 30, 4),
            "shared": lambda: draws.shared(0, 1 << 30, 8),
        }[kind]()

    first = drawn(0, "a", [0, 9])
    assert torch.equal(first, drawn(0, "a", [0, 9]))
    assert not torch.equal(first[0], first[1])
    for other in (drawn(1, "a", [0, 9]), drawn(0, "b", [0, 9]), drawn(0, "a", [20, 30])):
        assert not (first == other).any()


def test_a_corruption_follows_the_seed() -> None:
    images = torch.full((2, 3, 32, 32), 128, dtype=torch.uint8)
    noise = corruption("gaussian_noise", 3)
    assert torch.equal(noise(images, 4), noise(images, 4))
    assert not torch.equal(noise(images, 4), noise(images, 5))


def test_the_bootstrap_follows_the_seed() -> None:
    values = torch.randn(50, dtype=torch.float64)
    assert _bootstrap(values, 0.9, 200, 3) == _bootstrap(values, 0.9, 200, 3)
    assert _bootstrap(values, 0.9, 200, 3) != _bootstrap(values, 0.9, 200, 4)
