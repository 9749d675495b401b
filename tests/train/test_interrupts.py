"""A request to stop is heard, also where Python loses the exception of a signal handler."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from convswap.data import ArrayImages, Data
from convswap.train import Recipe, fit
from convswap.train.interrupts import raise_unheard, requests_interrupt

SIGNALS = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends the process there")


@pytest.fixture(autouse=True)
def _nobody_ignores_signals() -> Iterator[None]:
    """Under `nohup`, SIGHUP is ignored and stays so."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS[1:]:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Finalised:
    """An object in whose `__del__` the signal comes: Python prints what is raised there and drops it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        for _ in range(100):  # the handler runs between two of these
            pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_lost_interrupt_is_raised_again(number: int) -> None:
    with requests_interrupt():
        Finalised(number)
        with pytest.raises(KeyboardInterrupt, match=signal.Signals(number).name):
            raise_unheard()
    raise_unheard()  # behind the block it is heard


def test_an_interrupt_that_arrives_is_raised_once() -> None:
    with pytest.raises(KeyboardInterrupt), requests_interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
    raise_unheard()


class Interrupted(nn.Linear):
    """A classifier during whose third step the signal comes and is lost."""

    steps = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        if self.steps == 3:
            Finalised(signal.SIGTERM)
        return super().forward(x.flatten(1))


@pytest.fixture
def data() -> Data:
    images = ArrayImages(torch.zeros(64, 1, 4, 4, dtype=torch.uint8), torch.arange(64) % 2)
    return Data(
        name="zeros", train=images, test=images, num_classes=2, channels=1, image_size=(4, 4), mean=(0.5,), std=(0.5,),
        class_names=("a", "b"), fingerprint="0", flip=False,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_training_stops_at_the_next_step(tmp_path: Path, data: Data) -> None:
    """Before, a SIGTERM during the fork of a data loader was printed and ignored."""
    model = Interrupted(16, 2)
    recipe = Recipe(epochs=50, batch_size=16, crop_padding=0)
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), requests_interrupt():
        fit(model, data, recipe, seed=0, directory=tmp_path, progress=False, device="cpu")
    assert model.steps == 3
