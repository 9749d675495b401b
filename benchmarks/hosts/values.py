"""What networks take and give, in any form: drawing examples, calling, and comparing outputs.

Nothing here uses convswap's own comparison: the matrix checks its claims, so it may not share its code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Draws:
    """The names that the examples of `table.py` are written in. Two objects of one seed draw the same values."""

    def __init__(self, seed: int, batch: int = 2) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.batch = batch

    def image(self, channels: int, height: int, width: int | None = None) -> Tensor:
        """A batch of images (N, C, H, W) of values from 0 to 1."""
        shape = (self.batch, channels, height, width or height)
        return torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def photo(self, channels: int, height: int, width: int | None = None) -> Tensor:
        """One image (C, H, W) without a batch."""
        return self.image(channels, height, width)[0]

    def noise(self, *shape: int) -> Tensor:
        """A batch (N, *shape) of standard normal values."""
        return torch.randn((self.batch, *shape), generator=self.generator, dtype=torch.float64)

    def whole(self, below: int, *shape: int) -> Tensor:
        """A batch (N, *shape) of whole numbers from 0 to below `below`."""
        return torch.randint(0, below, (self.batch, *shape), generator=self.generator)

    def boxes(self, count: int, side: int) -> Tensor:
        """Boxes (count, 4) as corners x1, y1, x2, y2 within a square image."""
        corner = torch.rand((count, 2), generator=self.generator, dtype=torch.float64) * side / 2
        size = (0.2 + 0.3 * torch.rand((count, 2), generator=self.generator, dtype=torch.float64)) * side
        return torch.cat([corner, corner + size], 1)


def call(model: nn.Module, example: Any) -> Any:
    """Run the model: a tuple holds positional arguments, a dictionary keyword arguments. Anything else is one."""
    torch.manual_seed(0)  # some networks draw numbers
    given = cast(example, None)
    if isinstance(given, tuple):
        return model(*given)
    return model(**given) if isinstance(given, dict) else model(given)


def cast(value: Any, dtype: torch.dtype | None) -> Any:
    """An independent copy of an example, its floating-point tensors in another precision."""
    if isinstance(value, Tensor):
        return value.clone().to(dtype) if dtype is not None and value.is_floating_point() else value.clone()
    if isinstance(value, dict):
        return {key: cast(each, dtype) for key, each in value.items()}
    return type(value)(cast(each, dtype) for each in value) if isinstance(value, list | tuple) else value


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor and number in an output, with the way to it."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, bool | int | float):
        yield path, torch.tensor(value)
    elif isinstance(value, Mapping):
        for key in value:
            yield from leaves(value[key], f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from leaves(each, f"{path}.{number}")
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name), f"{path}.{field.name}")
    elif hasattr(value, "__dict__"):
        yield from leaves(vars(value), path)


def outputs(model: nn.Module, example: Any) -> list[tuple[str, Tensor]]:
    """The tensors that the model gives, without gradients."""
    with torch.no_grad():
        return [(path, tensor.detach().clone()) for path, tensor in leaves(call(model, example))]


def difference(expected: list[tuple[str, Tensor]], found: list[tuple[str, Tensor]]) -> float:
    """The largest difference over the largest value, over all tensors. Infinite where names, shapes or NaN differ."""
    if [(path, t.shape) for path, t in expected] != [(path, t.shape) for path, t in found]:
        return float("inf")
    worst = 0.0
    for (_, a), (_, b) in zip(expected, found, strict=True):
        wide = torch.complex128 if a.is_complex() else torch.float64
        a, b = a.to(wide), b.to(wide)
        finite = a.isfinite()
        if not torch.equal(finite, b.isfinite()):
            return float("inf")
        if finite.any():
            error, scale = (a - b)[finite].abs().max().item(), a[finite].abs().max().item()
            worst = max(worst, error / scale if scale else error)
    return worst
