"""A unit may be called from any thread, as servers and `nn.DataParallel` do."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..aids import demand_close, demand_same_gradients, gradients, image, lived_in
from ..case import Case
from ..rule import demand, rule


@rule()
def other_threads_compute_the_same(case: Case) -> None:
    """In another thread, and in two at once on copies, the unit must compute and train as in the main thread."""
    unit = lived_in(case, dtype=torch.float64)
    x = image(unit)
    for name, module in (("the unit", unit), ("its fused form", unit.fuse())):
        expected = module(x)
        (found,) = _in_threads([partial(module, x)])
        demand_close(found, expected, 1e-12, f"the output of {name} in another thread")
    trained = unit.train(not case.stochastic)
    copies = [copy.deepcopy(trained) for _ in range(2)]
    inputs = [x, image(unit)]
    wanted = [_pass(copy.deepcopy(trained), one) for one in inputs]
    both = _in_threads([partial(_pass, copied, one) for copied, one in zip(copies, inputs, strict=True)])
    for (output, found), (first, gradient) in zip(both, wanted, strict=True):
        demand_close(output, first, 1e-12, "the output of one of two threads")
        demand_same_gradients(found, gradient, 1e-11, "one of two threads")


def _pass(module: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
    outputs = []

    def run() -> Tensor:
        outputs.append(module(x))
        return outputs[-1]

    found = gradients(module, run)
    return outputs[0].detach(), found


def _in_threads(calls: list[Callable[[], Any]]) -> list[Any]:
    """The results of simultaneous calls, one thread each."""
    results: list[Any] = [None] * len(calls)
    failures: list[BaseException] = []
    start = threading.Barrier(len(calls))

    def work(index: int) -> None:
        try:
            start.wait(60)
            results[index] = calls[index]()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    demand(not any(thread.is_alive() for thread in threads), "a thread did not end within 300 s")
    if failures:
        raise failures[0]
    return results
