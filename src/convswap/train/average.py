"""An exponential moving average of a network's weights and statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average a of all parameters and saved buffers w of a network, taken after steps of the optimizer.

    It begins at the network's first values. The n-th update, counted from 1, is

        a <- d a + (1 - d) w    with d = min(decay, n / (n + 9))

    so that the first values are soon forgotten (`tf.train.ExponentialMovingAverage` with `num_updates`). BatchNorm's
    running mean and variance are averaged with the weights, and not estimated again. Whole numbers, such as counts, are
    copied. A tensor with several names is averaged once, and a frozen one keeps its exact value.

    Args:
        model: the network. It is not changed.
        decay: the largest share of the old average, from 0 to below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._live = held_tensors(model)
        self._mean = {name: tensor.clone() for name, tensor in self._live.items()}
        self._smooth = [name for name, t in self._live.items() if t.is_floating_point() or t.is_complex()]
        self._exact = [name for name in self._live if name not in set(self._smooth)]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network's values of now."""
        self.updates += 1
        share = 1 - min(self.decay, self.updates / (self.updates + 9))
        means, lives = ([tensors[name] for name in self._smooth] for tensors in (self._mean, self._live))
        torch._foreach_lerp_(means, lives, share)
        for name in self._exact:
            self._mean[name].copy_(self._live[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the network hold the average within the block."""
        kept = {name: tensor.clone() for name, tensor in self._live.items()}
        self.apply()
        try:
            yield
        finally:
            copy_tensors(kept, self._live)

    def apply(self) -> None:
        """Write the average into the network."""
        copy_tensors(self._mean, self._live)

    def state_dict(self) -> dict[str, object]:
        """Everything that a resumed training needs."""
        return {"updates": self.updates, "mean": self._mean}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from a saved state."""
        saved = state["mean"]
        assert isinstance(saved, dict)
        copy_tensors(saved, self._mean)
        self.updates = int(str(state["updates"]))


def held_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A network's parameters and saved buffers, each once, under its first name."""
    saved = model.state_dict(keep_vars=True)
    named: dict[str, Tensor] = dict(model.named_parameters())
    return named | {name: buffer for name, buffer in model.named_buffers() if name in saved}


@torch.no_grad()
def copy_tensors(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    """Write tensors into others of the same names, in place."""
    for name, tensor in target.items():
        tensor.copy_(source[name])
