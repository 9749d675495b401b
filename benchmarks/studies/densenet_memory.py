"""How much memory does a training step of a DenseNet need, plain and `memory_efficient`, and is it the same training?

DenseNet-BC-100-12 on noise of CIFAR's shape. Correctness first: ten steps of SGD by the paper's recipe (Nesterov 0.9,
rate 0.1, weight decay 1e-4) from the same weights, plain and memory-efficient. Their losses must agree to 1e-6, and
their running statistics too, every BatchNorm having counted ten batches.

Then the peak memory of forward and backward pass, beyond network and images, in a fresh process each
(`convswap.measure.peak_memory`), and the time of a step, measured in turns.

    python -m benchmarks.studies.densenet_memory [--batch 32] [--rounds 3]
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import write_result
from convswap.measure import peak_memory
from convswap.models import create_model

NAME, GOAL, CLOSE, STEPS = "cifar_densenet_bc100_12", 0.5, 1e-6, 10
FORMS = {"plain": False, "memory_efficient": True}


def build(form: str, batch: int) -> tuple[nn.Module, Tensor]:
    """The network and a batch of noise."""
    torch.manual_seed(0)
    model = create_model(NAME, num_classes=10, memory_efficient=FORMS[form])
    return model.train(), torch.randn(batch, 3, 32, 32)


def train(form: str, batch: int) -> tuple[list[float], dict[str, Tensor]]:
    """The losses of ten steps, and the state after them."""
    model, _ = build(form, batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(STEPS):
        images = torch.randn(batch, 3, 32, 32, generator=generator)
        labels = torch.randint(0, 10, (batch,), generator=generator)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model.state_dict()


def same_training(batch: int) -> dict[str, Any]:
    """How far the two trainings are apart.

    Raises:
        AssertionError: farther than they may be.
    """
    (plain, state), (efficient, other) = (train(form, batch) for form in FORMS)
    statistics_apart = max(
        float((other[key] - state[key]).abs().max() / state[key].abs().max()) for key in state if ".running_" in key
    )
    counts = {int(found[key]) for found in (state, other) for key in found if key.endswith("num_batches_tracked")}
    losses_apart = max(abs(a - b) for a, b in zip(plain, efficient, strict=True))
    assert losses_apart <= CLOSE, losses_apart
    assert statistics_apart <= CLOSE, statistics_apart
    assert counts == {STEPS}, counts
    return {
        "batch": batch,
        "losses": plain,
        "largest_loss_difference": losses_apart,
        "largest_relative_difference_of_running_statistics": statistics_apart,
        "batches_counted": STEPS,
    }


def seconds(batch: int, rounds: int) -> dict[str, float]:
    """The median time of forward and backward pass, by form, measured in turns."""
    built = {form: build(form, batch) for form in FORMS}
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for number in range(rounds + 1):
        for form, (model, images) in built.items():
            start = time.perf_counter()
            model(images).square().sum().backward()
            if number:  # the first round is a warm-up
                times[form].append(time.perf_counter() - start)
    return {form: statistics.median(found) for form, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="of the measurements")
    parser.add_argument("--check-batch", type=int, default=8, help="of the ten steps")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    check = same_training(options.check_batch)
    print(f"losses of ten steps differ by at most {check['largest_loss_difference']:.1e}", flush=True)
    peaks = {form: peak_memory(functools.partial(build, form, options.batch), "training") for form in FORMS}
    took = seconds(options.batch, options.rounds)
    ratio = peaks["memory_efficient"] / peaks["plain"]
    slower = took["memory_efficient"] / took["plain"]
    sizes = ", ".join(f"{form} {peak / 2**20:.0f} MB" for form, peak in peaks.items())
    print(f"{sizes}: {ratio:.2f} of the memory (goal {GOAL}), {slower:.2f} of the time")
    result = {"batch": options.batch, "peak_bytes": peaks, "memory_ratio": ratio, "seconds": took, "time_ratio": slower}
    write_result(
        "studies/densenet_memory",
        {"network": NAME, "goal": GOAL, "within_goal": ratio <= GOAL, "check": check, "results": result},
    )


if __name__ == "__main__":
    main()
