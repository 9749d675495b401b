"""The random numbers of units: a function of seed and count, all bits of both."""

from __future__ import annotations

import torch

from convswap.units.support.draws import fresh_state, mix, next_key, uniform


def state(seed: int, count: int = 0) -> torch.Tensor:
    return torch.tensor([seed, count])


def test_a_key_follows_every_part_of_the_state() -> None:
    keys = [int(next_key(state(seed, count))) for seed in (5, 5 + (1 << 40), 5 + (1 << 33), 1000) for count in range(3)]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 1 << 32 for key in keys)
    assert keys[0] == int(next_key(state(5)))


def test_the_count_rises_with_each_draw() -> None:
    one = state(5)
    first, second = int(next_key(one)), int(next_key(one))
    assert one.tolist() == [5, 2]
    assert [first, second] == [int(next_key(state(5, count))) for count in (0, 1)]


def test_seeds_come_from_torchs_generator() -> None:
    torch.manual_seed(0)
    first, second = fresh_state(torch.device("cpu")), fresh_state(torch.device("cpu"))
    torch.manual_seed(0)
    assert torch.equal(first, fresh_state(torch.device("cpu")))
    assert first[0] != second[0]
    assert first[1] == second[1] == 0


def test_uniform_numbers_are_even_and_follow_key_and_place() -> None:
    like = torch.empty(4, 8, 16, 16)
    one, other = uniform(torch.tensor(7), like), uniform(torch.tensor(8), like)
    assert 0 <= float(one.min()) < 1e-3
    assert 1 - 1e-3 < float(one.max()) < 1
    assert abs(float(one.mean()) - 0.5) < 0.01
    assert abs(float((one < 0.25).float().mean()) - 0.25) < 0.01
    assert abs(float(((one - 0.5) * (other - 0.5)).mean())) < 0.005
    assert torch.equal(one[:2], uniform(torch.tensor(7), like[:2]))
    channels_last = like.contiguous(memory_format=torch.channels_last)
    assert torch.equal(one, uniform(torch.tensor(7), channels_last))


def test_mixing_turns_half_of_the_bits() -> None:
    numbers = torch.arange(4096)
    turned = mix(numbers) ^ mix(numbers ^ 1)
    assert len(mix(numbers).unique()) == 4096
    assert abs(sum(bin(int(bits)).count("1") for bits in turned) / 4096 - 16) < 0.5
