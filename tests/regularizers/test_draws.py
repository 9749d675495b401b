"""Random numbers: the same for any number of processes, and the global generator is left alone."""

from __future__ import annotations

import pytest
import torch

from convswap.regularizers import Draws


def draws(rows: int, rank: int = 0, world: int = 1, seed: int = 5) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), rows, rank, world)


@pytest.mark.parametrize("kind", ["uniform", "normal", "whole"])
@pytest.mark.parametrize("blocks", [1, 3])
def test_processes_share_one_batch(kind: str, blocks: int) -> None:
    def drawn(d: Draws) -> torch.Tensor:
        count = d.rows * blocks
        return d.whole(count, 100) if kind == "whole" else getattr(d, kind)(count, 2)

    whole = drawn(draws(8))
    parts = [drawn(draws(4, rank, 2)) for rank in (0, 1)]
    both = [part.unflatten(0, (blocks, 4)) for part in parts]
    assert torch.equal(torch.cat(both, 1).flatten(0, 1), whole)


def test_numbers_of_a_batch_are_the_same_in_all_processes() -> None:
    first, second = draws(4, 0, 2), draws(4, 1, 2)
    assert [first.number(), first.beta(0.4)] == [second.number(), second.beta(0.4)]
    assert first.number() != first.number()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_beta_has_the_moments_of_its_distribution(alpha: float) -> None:
    d = draws(1)
    drawn = torch.tensor([d.beta(alpha) for _ in range(4000)])
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(drawn.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_the_global_generator_is_lent() -> None:
    before = torch.get_rng_state()
    first = [float(torch.rand(())) for _ in draws(3).seeded(3)]
    assert torch.equal(torch.get_rng_state(), before)
    assert first == [float(torch.rand(())) for _ in draws(3).seeded(3)]
    assert len(set(first)) == 3

    def numbers(consumed: int) -> list[float]:
        """An image that needs more numbers does not change those of the next image."""
        found = []
        for row in draws(3).seeded(3):
            found.append(float(torch.rand(())))
            torch.rand(consumed if row == 0 else 1)
        return found

    assert numbers(1) == numbers(7) == first


def test_the_global_generator_comes_back_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the loop is what is tried
        for _ in draws(3).seeded(3):
            torch.rand(2)
            1 / 0  # noqa: B018
    assert torch.equal(torch.get_rng_state(), before)
