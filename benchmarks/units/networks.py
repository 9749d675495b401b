"""Units in whole networks, in their default places: the time of a training step, and of inference after fusing."""

from __future__ import annotations

from collections import Counter
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convswap
from convswap.surgery.latency import measure_latency
from convswap.train.precision import autocast

HOSTS = {"cifar_resnet20": (32, 128), "resnet18": (224, 16)}
GOALS = {"circle": (1.05, 1.0), "ic": (1.25, 1.10)}


class Trainer:
    """A model with its optimizer and one batch; `step()` is one training step."""

    def __init__(self, model: nn.Module, images: Tensor, precision: str, compiled: bool) -> None:
        self.model = model.to(memory_format=torch.channels_last).train()
        self.run = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, nesterov=True, fused=True)
        self.images, self.precision = images, precision
        self.labels = torch.arange(len(images)) % 10

    def step(self) -> float:
        """Seconds of one step."""
        start = perf_counter()
        with autocast(self.precision, torch.device("cpu")):
            logits = self.run(self.images)
        F.cross_entropy(logits.float(), self.labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return perf_counter() - start


def batch(size: int, count: int) -> Tensor:
    """Random images, channels last."""
    images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return images.to(memory_format=torch.channels_last)


def host(name: str) -> nn.Module:
    """The untouched network."""
    torch.manual_seed(0)
    return convswap.create_model(name, num_classes=10)


def training_ratios(
    name: str, units: list[str], repeats: int, precision: str, compiled: bool
) -> dict[str, list[float]]:
    """Per unit, the ratio of its step's time to the plain network's beside it, one for each repetition."""
    size, count = HOSTS[name]
    images = batch(size, count)
    plain = host(name)
    models = {"conv": plain} | {u: convswap.swap(plain, u, start="fresh") for u in units}
    trainers = {unit: Trainer(model, images, precision, compiled) for unit, model in models.items()}
    seconds: dict[str, list[float]] = {unit: [] for unit in trainers}
    for repeat in range(repeats + 3):
        order = list(trainers)
        turn = repeat % len(order)
        for unit in order[turn:] + order[:turn]:
            elapsed = trainers[unit].step()
            if repeat >= 3:
                seconds[unit].append(elapsed)
    return {u: [t / p for t, p in zip(seconds[u], seconds["conv"], strict=True)] for u in seconds}


def kinds(model: nn.Module) -> Counter[str]:
    """How many modules of each type."""
    return Counter(type(module).__name__ for module in model.modules())


def fused_ratios(
    name: str, units: list[str], repeats: int, threads: int, count: int, compiled: bool
) -> dict[str, dict[str, Any]]:
    """Per unit, the latency of the fused model and its ratio to the plain network folded the same way."""
    size, _ = HOSTS[name]
    images = batch(size, count)
    plain = host(name).eval()
    fused = {"conv": convswap.fuse(plain, images[:1]), "conv again": convswap.fuse(plain, images[:1])}
    for unit in units:
        fused[unit] = convswap.fuse(convswap.swap(plain, unit, start="fresh").eval(), images[:1])
    fused = {unit: model.to(memory_format=torch.channels_last) for unit, model in fused.items()}
    run = {unit: torch.compile(model) for unit, model in fused.items()} if compiled else fused
    timed = measure_latency(run, images, threads=threads, repeats=repeats)
    base = timed["conv"].median_ms
    return {
        unit: timed[unit].as_dict()
        | {"ratio": timed[unit].median_ms / base, "same_modules": kinds(fused[unit]) == kinds(fused["conv"])}
        for unit in fused
    }


def measure_host(name: str, units: list[str], repeats: int, precision: str, compiled: bool) -> dict[str, Any]:
    """Both tables of one network, printed as they come."""
    result: dict[str, Any] = {"training": {}, "fused": {}}
    for unit, ratios in training_ratios(name, units, repeats, precision, compiled).items():
        q1, _, q3 = quantiles(ratios, n=4, method="inclusive")
        result["training"][unit] = {"ratio": median(ratios), "q1": q1, "q3": q3}
        print(f"{name:15} train  {unit:14} {median(ratios):.3f} ({q1:.3f} to {q3:.3f})", flush=True)
    for count in (1, 32):
        found = fused_ratios(name, units, repeats * 2, torch.get_num_threads(), count, compiled)
        result["fused"][f"batch {count}"] = found
        for unit, row in found.items():
            same = "same modules" if row["same_modules"] else "other modules"
            print(f"{name:15} fused  {unit:14} {row['ratio']:.3f} batch {count}, {same}", flush=True)
    return result
