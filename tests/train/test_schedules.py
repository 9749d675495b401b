"""The learning rates against naive definitions and torch's own schedulers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convswap.train.recipes.choices import CHOICES
from convswap.train.recipes.schedules import Curve

TOTAL = 40


def naive(schedule: str, done: float, final: float, power: float) -> float:
    """The fall from 1 to `final`, `done` from 0 to 1."""
    if schedule == "exponential":
        return math.exp(done * math.log(final))
    left = {"linear": 1 - done, "cosine": math.cos(math.pi * done / 2) ** 2, "poly": (1 - done) ** power}[schedule]
    return final + (1 - final) * left


@pytest.mark.parametrize("schedule", ["linear", "cosine", "poly", "exponential"])
def test_the_fall_is_that_of_the_definition(schedule: str) -> None:
    curve = Curve(schedule=schedule, peak=0.5, warmup=0.25, initial=0.2, final=0.05, power=1.7)
    for step in range(10):
        assert curve.at(step, TOTAL) == pytest.approx(0.5 * (0.2 + 0.8 * (step + 1) / 10))
    for step in range(10, TOTAL):
        assert curve.at(step, TOTAL) == pytest.approx(0.5 * naive(schedule, (step - 10) / 30, 0.05, 1.7))


def rates(scheduler: Any, optimizer: torch.optim.Optimizer, steps: int = TOTAL) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found


def sgd(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


@pytest.mark.parametrize("warmup", [0.1, 0.3, 0.5])
def test_one_cycle_is_torchs(warmup: float) -> None:
    optimizer = sgd(0.1)
    one = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.4, total_steps=TOTAL, pct_start=warmup, div_factor=10, final_div_factor=100, cycle_momentum=False
    )
    curve = Curve(schedule="one_cycle", peak=0.4, warmup=warmup, initial=0.1, final=0.001)
    assert [curve.at(step, TOTAL) for step in range(TOTAL)] == pytest.approx(rates(one, optimizer))


def test_poly_is_torchs() -> None:
    optimizer = sgd(0.4)
    poly = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=TOTAL, power=0.9)
    curve = Curve(schedule="poly", peak=0.4)
    assert [curve.at(step, TOTAL) for step in range(TOTAL)] == pytest.approx(rates(poly, optimizer))


def test_steps_are_torchs() -> None:
    optimizer = sgd(0.4)
    steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, [20, 30], gamma=0.2)
    curve = Curve(schedule="steps", peak=0.4, milestones=(0.5, 0.75), gamma=0.2)
    assert [curve.at(step, TOTAL) for step in range(TOTAL)] == pytest.approx(rates(steps, optimizer))


@settings(deadline=None)
@given(
    schedule=st.sampled_from([name for name in CHOICES["schedule"] if name != "steps"]),
    warmup=st.floats(0.01, 0.99),
    initial=st.floats(0, 1),
    final=st.floats(1e-6, 1),
    total=st.integers(1, 300),
)
def test_rates_stay_between_their_ends_and_the_peak(
    schedule: str, warmup: float, initial: float, final: float, total: int
) -> None:
    curve = Curve(schedule=schedule, peak=0.3, warmup=warmup, initial=initial, final=final)
    found = [curve.at(step, total) for step in range(total)]
    assert all(min(initial, final) * 0.3 - 1e-12 <= rate <= 0.3 + 1e-12 for rate in found)
