"""Does a trained plain network speed up the training of the same network with units? And does a warm start?

ResNet-20 with `ic` on CIFAR-10, under one recipe and the same seeds: from scratch, from scratch with the published
plain network as teacher (`logit_distillation`, by both distances), and started from the published weights, with and
without that teacher. For each way: the final test accuracy, and the epochs and seconds until the test accuracy first
reaches some levels, the teacher's own among them. The weights are those of github.com/akamaster/pytorch_resnet_cifar10
(resnet20-12fca82f.th).

    python -m benchmarks.studies.distillation --weights resnet20-12fca82f.th --lab FOLDER [--epochs 10] [--seeds 3]
        [--ways 'scratch;teacher, mse'] [--data-root PATH] [--threads 1]

Trials run in a lab: an interrupted study goes on from the last epoch. Seeds vary slowest, and the result is written
anew after each seed. One trial of it from the command line:

    convswap train --model cifar_resnet20 --unit ic --data cifar10 --epochs 10
        --teacher cifar_resnet20:resnet20-12fca82f.th --distill mse
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import convswap
from benchmarks.common import write_result
from convswap.cli.grid import make_trials
from convswap.data import Data, load_data
from convswap.lab import Trial, run_grid
from convswap.lab.normalization import choose_normalization
from convswap.lab.teacher import describe_teacher
from convswap.measure.statistics import compare_to_baseline, mean_interval
from convswap.train import default_recipe, evaluate, regularized
from convswap.train.allocator import keep_freed_memory

MODEL, UNIT = "cifar_resnet20", "ic"
LEVELS = (0.80, 0.85, 0.88)
RESULT = "studies/distillation"


@dataclass(frozen=True)
class Way:
    """How a training begins, and whom it listens to (`""`: nobody)."""

    distance: str = ""
    warm: bool = False


WAYS = {
    "scratch": Way(),
    "teacher, mse": Way("mse"),
    "teacher, kl": Way("kl"),
    "warm start": Way(warm=True),
    "warm start, teacher, kl": Way("kl", warm=True),
}


def trial_of(way: Way, weights: Path, data: Data, epochs: int, seed: int) -> Trial:
    """One training. All ways have the recipe from scratch, so that only the start and the teacher differ."""
    recipe = default_recipe(data, epochs=epochs)
    if way.distance:
        recipe = regularized(recipe, [f"logit_distillation:{way.distance}"])
    (trial,) = make_trials(
        [MODEL],
        [UNIT],
        {UNIT: {}},
        range(seed, seed + 1),
        where={UNIT: None},
        data=data,
        image_size=None,
        recipe=recipe,
        weights=weights if way.warm else None,
        pretrained=False,
        normalization="auto",
    )
    teacher = describe_teacher("weights", file=weights, model=MODEL) if way.distance else None
    return replace(trial, teacher=teacher)


def teacher_accuracy(weights: Path, data: Data) -> float:
    """Of the published network on the test images, with its own constants."""
    model = convswap.create_model(MODEL, num_classes=data.num_classes, weights=weights).eval()
    constants = choose_normalization("model", model, data, trained=True)
    assert constants is not None
    own = replace(data, mean=tuple(constants["mean"]), std=tuple(constants["std"]))
    return evaluate(model, own).accuracy


def reached(history: Sequence[dict[str, Any]], level: float) -> dict[str, float] | None:
    """The epochs and the seconds until the test accuracy first reaches a level, None if it never does."""
    seconds = 0.0
    for row in history:
        seconds += row["seconds"]
        if row["test_accuracy"] >= level:
            return {"epochs": row["epoch"], "seconds": seconds}
    return None


def summary(results: dict[str, list[dict[str, Any]]], teacher: float) -> dict[str, dict[str, Any]]:
    """One row a way: accuracy with its interval, difference to training from scratch, and when levels are reached."""
    rows: dict[str, dict[str, Any]] = {}
    scratch = [100 * result["test_accuracy"] for result in results.get("scratch", [])]
    for name, found in results.items():
        if not found:
            continue
        values = [100 * result["test_accuracy"] for result in found]
        row: dict[str, Any] = {"accuracies": values, "accuracy": asdict(mean_interval(values))}
        if name != "scratch" and scratch:
            row["against_scratch"] = asdict(compare_to_baseline(values, scratch))
        row["reached"] = {
            f"{100 * level:.2f} %": [reached(result["history"], level) for result in found]
            for level in (*LEVELS, teacher)
        }
        row["seconds"] = [result["seconds"] for result in found]
        rows[name] = row
    return rows


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--lab", type=Path, required=True, help="folder of the trials")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", default=None, help=f"joined by ';', of {'; '.join(WAYS)}")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    data = load_data("cifar10", root=options.data_root, download=False)
    teacher = teacher_accuracy(options.weights, data)
    print(f"the teacher: {teacher:.2%}", flush=True)
    ways = {name: WAYS[name] for name in (options.ways.split(";") if options.ways else WAYS)}
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    payload: dict[str, Any] = {}
    for seed in range(options.seeds):
        trials = [trial_of(way, options.weights, data, options.epochs, seed) for way in ways.values()]
        for name, row in zip(ways, run_grid(trials, options.lab, data_root=options.data_root), strict=True):
            if row.result is None:
                print(f"{name}, seed {seed}: failed: {row.reason()}", flush=True)
            else:
                results[name].append(row.result)
        payload = {
            "model": MODEL,
            "unit": UNIT,
            "epochs": options.epochs,
            "seeds": seed + 1,
            "threads": options.threads,
            "teacher_accuracy": teacher,
            "recipe": default_recipe(data, epochs=options.epochs).as_dict(),
            "ways": summary(results, teacher),
        }
        write_result(RESULT, payload)
    return payload


if __name__ == "__main__":
    main()
