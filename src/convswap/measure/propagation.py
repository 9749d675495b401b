"""Forward-propagation stability: do signals, and differences between signals, grow with the depth of a network?

A residual block with a step size h is one step of a differential equation, as in arXiv:2108.02430. If the equation and
the method are stable, norms and small perturbations stay bounded, however many blocks follow each other.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import UsageError, is_number, is_whole

STEP_SIZES = (0.03, 0.06, 0.1, 0.3, 1.0)
DEPTHS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Propagation:
    """The growth up to one depth with one step size.

    Attributes:
        step: h, or None where the steps were left as they are.
        depth: how many blocks the signal has passed.
        norm_growth: root mean square of the map behind them, divided by that of the map before the first.
        perturbation_growth: the same ratio for the difference to the map of a perturbed input. Both are `inf` after an
            overflow.
    """

    step: float | None
    depth: int
    norm_growth: float
    perturbation_growth: float


def propagation_stability(
    model: nn.Module,
    x: Tensor,
    *,
    step_sizes: Iterable[float] | None = STEP_SIZES,
    depths: Iterable[int] | None = None,
    layers: Sequence[str] | None = None,
    perturbation: float = 1e-3,
    seed: int = 0,
) -> list[Propagation]:
    """Growth of the norm and of a small random perturbation over depth, for each step size.

    A *block* (a module with an attribute `step`, or in which no module has one) is applied to x again and again, as a
    network with shared weights. A *network* is a module that holds modules with a `step`, or for which `layers` are
    given. The outputs of these modules, in the order in which they run, are depth 1, 2, ..; depth 0 is the input of the
    first of them. Root mean squares make maps of different size comparable.

    Works on a float64 copy in evaluation mode: BatchNorm uses its running statistics, so a network fresh from its
    constructor is measured without normalisation.

    Args:
        model: the block or network; left as it is.
        x: a batch of inputs of the block or network.
        step_sizes: set as `step` on every module that has one, in turn. None: the steps stay.
        depths: at which depths to report. None: 1, 2, 4 .. 64 for a block, every layer of a network.
        layers: paths of the modules to watch in a network, e.g. the residual blocks of a ResNet.
        perturbation: its root mean square, relative to that of x.
        seed: of the perturbation, which is normally distributed.

    Returns:
        One row for each step size and depth, in this order.

    Raises:
        ValueError: an argument is not allowed, no module has a `step` while step sizes are given, a block changes the
            shape of its map, a depth is beyond the network's, or the signal is 0 or not finite.

    >>> rows = propagation_stability(nn.Identity(), torch.ones(1, 2), step_sizes=None, depths=[3])
    >>> rows
    [Propagation(step=None, depth=3, norm_growth=1.0, perturbation_growth=1.0)]
    """
    wanted = None if depths is None else _checked_depths(depths)
    if not _positive(perturbation):
        raise UsageError(f"perturbation={perturbation!r} is not allowed; give a positive number")
    if not isinstance(x, Tensor):
        raise UsageError(f"x={type(x).__name__} is not allowed; give a tensor, a batch of inputs")
    twin = copy.deepcopy(model).double().eval()
    stepped = [module for module in twin.modules() if _has_step(module)]
    sizes = [None] if step_sizes is None else _checked_steps(step_sizes, bool(stepped))
    watched = _watched(twin, layers, stepped)
    x = x.detach().double()
    moved = x + perturbation * _rms(x) * _noise(x, seed)
    rows = []
    for size in sizes:
        if size is not None:
            for module in stepped:
                module.step = size  # type: ignore[assignment]
        if watched:
            maps, others = _network_maps(twin, watched, x), _network_maps(twin, watched, moved)
            at = _checked_within(range(1, len(maps)) if wanted is None else wanted, len(maps) - 1)
        else:
            at = list(DEPTHS) if wanted is None else wanted
            maps, others = _block_maps(twin, x, max(at)), _block_maps(twin, moved, max(at))
        rows += _rows(size, at, maps, others)
    return rows


def _rows(step: float | None, depths: Sequence[int], maps: list[Tensor], others: list[Tensor]) -> list[Propagation]:
    start, apart = _rms(maps[0]), _rms(others[0] - maps[0])
    if maps[0].numel() and not math.isfinite(start):
        raise UsageError("x: the signal before the first block is not finite; give another input")
    if not (start > 0 and apart > 0):
        raise UsageError("x: the signal before the first block is 0, so its growth is undefined; give another input")
    return [
        Propagation(step, depth, _ratio(_rms(maps[depth]), start), _ratio(_rms(others[depth] - maps[depth]), apart))
        for depth in depths
    ]


def _ratio(value: float, start: float) -> float:
    return value / start if math.isfinite(value) else math.inf


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def _noise(x: Tensor, seed: int) -> Tensor:
    return torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(seed)).to(x.device)


def _has_step(module: nn.Module) -> bool:
    return is_number(getattr(module, "step", None))


def _watched(model: nn.Module, layers: Sequence[str] | None, stepped: list[nn.Module]) -> list[nn.Module]:
    """The modules whose outputs count as depths; none for a block."""
    if layers is None:
        return [] if _has_step(model) else stepped
    if isinstance(layers, str) or not layers:
        raise UsageError(f"layers={layers!r} is not allowed; give a list of module paths")
    try:
        return [model.get_submodule(path) for path in layers]
    except AttributeError as error:
        raise UsageError(f"layers={list(layers)!r}: the model has no such module ({error})") from error


@torch.no_grad()
def _block_maps(block: nn.Module, x: Tensor, depth: int) -> list[Tensor]:
    maps = [x]
    for _ in range(depth):
        y = block(maps[-1])
        if not isinstance(y, Tensor) or y.shape != x.shape:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise UsageError(
                f"a block must keep the shape of its map to be repeated, but {type(block).__name__} makes {got} of "
                f"{tuple(x.shape)}; for a network give layers=[..], the paths of its blocks"
            )
        maps.append(y)
    return maps


@torch.no_grad()
def _network_maps(model: nn.Module, watched: list[nn.Module], x: Tensor) -> list[Tensor]:
    """The input of the first watched module and the output of every one, as they run."""
    maps: list[Tensor] = []
    with _watching(watched, maps):
        model(x)
    if not maps:
        raise UsageError(f"none of the {len(watched)} watched modules runs in a forward pass")
    return maps


@contextmanager
def _watching(watched: list[nn.Module], maps: list[Tensor]) -> Iterator[None]:
    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, Tensor) or not args or not isinstance(args[0], Tensor):
            raise UsageError(f"layers: {type(module).__name__} does not map one tensor to one tensor")
        if not maps:
            maps.append(first.pop())
        maps.append(output.clone())  # a later layer may work in place

    def note_input(module: nn.Module, args: tuple[Any, ...]) -> None:
        if not maps and not first and args and isinstance(args[0], Tensor):
            first.append(args[0].clone())

    first: list[Tensor] = []
    handles = [module.register_forward_pre_hook(note_input) for module in watched]
    handles += [module.register_forward_hook(note) for module in watched]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _positive(value: object) -> bool:
    return is_number(value) and value > 0


def _checked_steps(step_sizes: Iterable[float], any_stepped: bool) -> list[float | None]:
    sizes: Any = list(step_sizes) if isinstance(step_sizes, Iterable) else step_sizes
    if not isinstance(sizes, list) or not sizes or not all(_positive(s) for s in sizes):
        raise UsageError(f"step_sizes={sizes!r} is not allowed; give positive numbers, or None to leave the steps")
    if not any_stepped:
        raise UsageError(f"step_sizes={sizes!r}: no module has a `step` to set; give step_sizes=None")
    return [float(s) for s in sizes]


def _checked_depths(depths: Iterable[int]) -> list[int]:
    found: Any = list(depths) if isinstance(depths, Iterable) else depths
    whole = isinstance(found, list) and all(is_whole(d) and d > 0 for d in found)
    if not whole or not found:
        raise UsageError(f"depths={found!r} is not allowed; give whole numbers of at least 1")
    return cast(list[int], found)


def _checked_within(depths: Iterable[int], deepest: int) -> list[int]:
    found = list(depths)
    if max(found) > deepest:
        raise UsageError(f"depths={found!r}: the network has {deepest} watched modules")
    return found
