"""Units as single layers and blocks, each beside the module it replaces and beside its straightforward form."""

from __future__ import annotations

import copy
import math
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

import convswap
from benchmarks.peers.straightforward import library_peer, straightforward
from convswap.models.cifar_resnet import BasicBlock
from convswap.train.precision import autocast
from convswap.units import Geometry, Place, UnitSpec

TOLERANCE = 1e-9  # of outputs in float64, relative to the largest
_LEAST_ROUND = 2e-3  # least seconds of one timed turn
_FEWEST, _FEWEST_SLOW = 5, 3  # least turns, even past the given time; the second for modules that take far longer


@dataclass(frozen=True)
class Case:
    """A place for units: a convolution's or a block's shape, and the batch that is sent through."""

    name: str
    shape: Geometry | Place
    size: int
    batch: int

    def reference(self) -> nn.Module:
        """The module without a unit: a convolution, residual blocks of `cifar_resnet`, or a ResNet's stem."""
        if isinstance(self.shape, Geometry):
            return nn.Conv2d(**self.shape.arguments())
        s = self.shape
        if s.kind == "stem":
            conv = nn.Conv2d(s.in_channels, s.out_channels, 7, 2, 3, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(s.out_channels), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        first = BasicBlock(s.in_channels, s.out_channels, s.stride)
        return nn.Sequential(first, *(BasicBlock(s.out_channels, s.out_channels) for _ in range(s.depth - 1)))

    def refused(self, spec: UnitSpec) -> str | None:
        """Why the unit cannot stand there, or None."""
        cls: Any = spec.cls
        return cls.supports(self.reference() if isinstance(self.shape, Geometry) else self.shape)

    def unit(self, spec: UnitSpec) -> nn.Module:
        """The unit in this place, every parameter and statistic moved off its start, so that all of them count."""
        torch.manual_seed(0)
        cls: Any = spec.cls
        unit = cls.at(self.shape) if isinstance(self.shape, Place) else cls.fresh_like(self.reference())
        with torch.no_grad():
            for parameter in unit.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            for module in unit.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.normal_(0, 0.2)
                    module.running_var.uniform_(0.5, 1.5)
        return unit

    def images(self) -> Tensor:
        """A batch of feature maps, channels last."""
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(self.batch, self.shape.in_channels, self.size, self.size, generator=generator)
        return x.to(memory_format=torch.channels_last)


def _conv(n: int, m: int, size: int, batch: int, groups: int = 1, kernel: int = 3) -> Case:
    pad = (kernel // 2, kernel // 2)
    geometry = Geometry(n, m, (kernel, kernel), padding=pad, groups=groups, bias=False)
    return Case(f"{geometry.describe()}, {size} px, batch {batch}", geometry, size, batch)


def _block(n: int, m: int, size: int, batch: int, stride: int = 1, depth: int = 1, kind: Any = "block") -> Case:
    place = Place(n, m, stride, depth, kind)
    return Case(f"{place.describe()}, {size} px, batch {batch}", place, size, batch)


LAYERS = (
    _conv(16, 16, 32, 64),
    _conv(64, 64, 8, 64),
    _conv(128, 128, 28, 4),
    _conv(128, 128, 28, 4, groups=32),
    _conv(192, 192, 28, 8, groups=192),
)
BLOCKS = (_block(64, 64, 16, 32), _block(64, 128, 16, 32, stride=2))
STAGES = (_block(64, 128, 16, 16, stride=2, depth=4),)
STEMS = (_block(3, 64, 224, 8, stride=4, kind="stem"),)
QUICK_LAYERS = (_conv(8, 8, 6, 2), _conv(8, 8, 6, 2, groups=8))
QUICK_BLOCKS = (_block(8, 8, 6, 2), _block(8, 16, 6, 2, stride=2))
QUICK_STAGES = (_block(16, 32, 6, 2, stride=2, depth=3),)
QUICK_STEMS = (_block(3, 64, 24, 2, stride=4, kind="stem"),)


def cases_for(spec: UnitSpec, quick: bool) -> tuple[Case, ...]:
    """The places in which a unit is measured, whether it supports them or not."""
    if spec.replaces == "convolution":
        return QUICK_LAYERS if quick else LAYERS
    if spec.replaces == "block":
        return QUICK_BLOCKS if quick else BLOCKS
    if spec.replaces == "stem":
        return QUICK_STEMS if quick else STEMS
    return QUICK_STAGES if quick else STAGES


@dataclass(frozen=True)
class Settings:
    """How to measure: where, in which precision, and how long (seconds for each table cell)."""

    device: torch.device
    precision: str
    seconds: float

    def place(self, module: nn.Module) -> nn.Module:
        """A copy on the device, channels last."""
        return copy.deepcopy(module).to(self.device, memory_format=torch.channels_last)


def difference(one: nn.Module, other: nn.Module, x: Tensor) -> float:
    """The largest difference of two modules' outputs, relative to the largest output."""
    with torch.no_grad():
        a, b = copy.deepcopy(one)(x), copy.deepcopy(other)(x)  # copies: training moves the statistics
    return float((a - b).abs().max() / a.abs().max()) if a.shape == b.shape else math.inf


def peers_of(spec: UnitSpec, unit: nn.Module) -> dict[str, nn.Module]:
    """The straightforward form, and the same block of a library if there is one."""
    library = library_peer(spec.name, unit)
    both = {"straightforward": straightforward(spec.name, unit), "library": None if library is None else library[1]}
    return {name: peer for name, peer in both.items() if peer is not None}


def checks(spec: UnitSpec, unit: nn.Module, x: Tensor) -> dict[str, float]:
    """The check behind every figure, in float64: the fused unit and every peer compute the unit's function."""
    x = x.double()
    exact = copy.deepcopy(unit).double().eval()
    found = {"fused": difference(exact, exact.fuse(), x)}  # type: ignore[operator]
    for training in (False,) if spec.train_eval == "stochastic" else (False, True):
        for name, peer in peers_of(spec, exact.train(training)).items():
            found[name] = max(found.get(name, 0.0), difference(exact, peer, x))
    return found


def training_step(module: nn.Module, x: Tensor, settings: Settings) -> Callable[[], None]:
    """Forward and backward, to the parameters and to the input as inside a network."""
    module = settings.place(module).train()
    image = x.to(settings.device).requires_grad_()
    with torch.no_grad(), autocast(settings.precision, settings.device):
        gradient = torch.randn_like(module(image))

    def step() -> None:
        with autocast(settings.precision, settings.device):
            y = module(image)
        y.backward(gradient)
        image.grad = None
        for parameter in module.parameters():
            parameter.grad = None

    return step


def inference(module: nn.Module, x: Tensor, settings: Settings) -> Callable[[], None]:
    """A forward pass in evaluation."""
    module, image = settings.place(module).eval(), x.to(settings.device)

    @torch.inference_mode()
    def step() -> None:
        with autocast(settings.precision, settings.device):
            module(image)

    return step


def folded(module: nn.Module, x: Tensor) -> nn.Module:
    """A peer as one would deploy it: BatchNorms that follow a convolution are folded."""
    return convswap.fuse(nn.Sequential(copy.deepcopy(module)).eval(), x)


def _turn(step: Callable[[], None], calls: int, device: torch.device) -> float:
    _wait(device)
    start = perf_counter()
    for _ in range(calls):
        step()
    _wait(device)
    return (perf_counter() - start) / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def times(steps: Mapping[str, Callable[[], None]], settings: Settings) -> dict[str, list[float]]:
    """Seconds of each step, all taking turns in one loop.

    The order is drawn anew in every turn. In a rotation each step would always follow the same one, and find the
    caches as that one left them.
    """
    calls = {}
    for name, step in steps.items():
        _turn(step, 1, settings.device)
        calls[name] = max(1, math.ceil(_LEAST_ROUND / max(_turn(step, 1, settings.device), 1e-6)))
    start, names, shuffle = perf_counter(), list(steps), random.Random(0)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(1000):
        taken = perf_counter() - start
        fewest = _FEWEST if taken <= 2 * settings.seconds else _FEWEST_SLOW
        if turn >= fewest and taken > settings.seconds:
            break
        shuffle.shuffle(names)
        for name in names:
            found[name].append(_turn(steps[name], calls[name], settings.device))
    return found


def ratio(upper: list[float], lower: list[float]) -> dict[str, float]:
    """The median and quartiles of the ratio of one time to the other in the same turn."""
    values = [u / v for u, v in zip(upper, lower, strict=True)]
    q1, _, q3 = quantiles(values, n=4, method="inclusive")
    return {"ratio": median(values), "q1": q1, "q3": q3}


def measure(spec: UnitSpec, case: Case, settings: Settings) -> dict[str, Any]:
    """One row: the unit in this place against the module it replaces and against its peers. All are checked first."""
    unit, x = case.unit(spec), case.images()
    peers, library = peers_of(spec, unit), library_peer(spec.name, unit)
    differences = checks(spec, unit, x[:4])
    red = {name for name, value in differences.items() if not value <= TOLERANCE}
    row: dict[str, Any] = {"unit": spec.name, "place": case.name, "differences": differences, "red": sorted(red)}
    if library is not None:
        row["library"] = library[0]
    plain = case.reference()
    together = {"plain": plain, "unit": unit, "again": unit}  # the unit against itself shows the machine's noise
    together |= {name: peer for name, peer in peers.items() if name not in red}
    made = unit.eval().fuse()  # type: ignore[operator]
    fused = {"plain": folded(plain, x[:1]), "unit": made, "again": made}
    fused |= {name: folded(peer, x[:1]) for name, peer in together.items() if name in peers}
    kinds: dict[str, tuple[Callable[..., Callable[[], None]], dict[str, nn.Module]]] = {
        "training": (training_step, together),
        "inference": (inference, together),
    }
    if "fused" not in red:
        kinds["fused"] = (inference, fused)
    for kind, (make, modules) in kinds.items():
        steps = {name: make(module, x, settings) for name, module in modules.items()}
        taken = times(steps, settings)
        row[kind] = {"plain_ms": 1e3 * median(taken["plain"]), "unit_ms": 1e3 * median(taken["unit"])}
        row[kind] |= {f"to_{name}": ratio(taken["unit"], taken[name]) for name in taken if name != "unit"}
        if kind != "fused":
            peaks = {name: peak_bytes(step, settings.device) for name, step in steps.items() if name != "again"}
            row[kind]["memory"] = {f"to_{n}": peaks["unit"] / p for n, p in peaks.items() if n != "unit" and p > 0}
            row[kind]["memory"]["unit_bytes"] = peaks["unit"]
    return row


def peak_bytes(step: Callable[[], None], device: torch.device) -> int:
    """How far allocated memory rises during the step above its level before."""
    step()
    if device.type == "cuda":
        _wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        _wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler writes two lines a call
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    found = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    level = peak = 0
    for event in sorted((e for e in found if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    return peak
