"""One of two ranks: it wraps units in DDP and answers what went wrong. Started by `ranks`."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import pickle
import sys
import traceback
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .aids import image


def main(rank: int, folder: str) -> None:
    """Answer jobs until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a unit's prints must not come between the answers
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    while True:
        try:
            name, file, job = pickle.load(sys.stdin.buffer)
        except EOFError:
            break
        torch.manual_seed(1000 + 17 * rank)
        try:
            _import(name, file)
            cls, arguments = pickle.loads(job)
            failure = _check(cls(**arguments))
        except Exception:
            failure = traceback.format_exc()
        # The ranks stay in step: when one of them fails, the unit is over for both.
        if any(_gathered(torch.tensor(failure is not None).float())):
            failure = failure or "failed on the other rank"
        pickle.dump(failure, answers)
        answers.flush()
    dist.destroy_process_group()


def _import(name: str, file: str | None) -> None:
    """Import the unit's module under its name, from its file if its folder is not on the path."""
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module(name)
        return
    if file is None:
        return
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def _gathered(value: Tensor) -> list[Tensor]:
    both = [torch.empty_like(value) for _ in range(2)]
    dist.all_gather(both, value.contiguous())
    return both


def _check(unit: Any) -> str | None:
    if not any(p.requires_grad for p in unit.parameters()):
        return None  # DDP refuses a module without parameters to train
    model = DistributedDataParallel(nn.Sequential(unit), find_unused_parameters=False)
    problems = []
    for _ in range(3):
        model.zero_grad()
        output = model(image(unit))
        (output * torch.randn_like(output)).sum().backward()
        for name, parameter in unit.named_parameters():
            gradient = parameter.grad
            if gradient is None:
                problems.append(f"{name} got no gradient")
            first, second = _gathered(torch.zeros_like(parameter) if gradient is None else gradient)
            if not torch.equal(first, second):
                problems.append(f"gradients of {name} differ across ranks")
    x = torch.ones(2, unit.in_channels, 7, 6) * torch.arange(6.0)
    for _ in range(10):
        first, second = _gathered(model(x).detach())
        if not torch.equal(first, second):
            problems.append("ranks compute different functions in training")
    return "; ".join(dict.fromkeys(problems)) or None
