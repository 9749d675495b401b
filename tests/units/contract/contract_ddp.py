"""One of two ranks: wraps every unit in DDP and writes down what went wrong. A module of its own, to be spawned."""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from contract_cases import CASES, Case, image
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def rank_main(rank: int, folder: str) -> None:
    """Run every case on this rank; `folder/RANK.json` holds the failures, by case."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    failures = {}
    for case in CASES:
        torch.manual_seed(1000 + 17 * rank)
        try:
            failure = _check(case)
        except Exception:
            failure = traceback.format_exc()
        # The ranks stay in step: a case one of them failed is over for both.
        if any(_gathered(torch.tensor(failure is not None).float())):
            failures[str(case)] = failure or "failed on the other rank"
    Path(folder, f"{rank}.json").write_text(json.dumps(failures))
    dist.destroy_process_group()


def _gathered(value: Tensor) -> list[Tensor]:
    both = [torch.empty_like(value) for _ in range(2)]
    dist.all_gather(both, value.contiguous())
    return both


def _check(case: Case) -> str | None:
    unit = case.home()
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
