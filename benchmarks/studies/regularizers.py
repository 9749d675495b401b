"""What does each regulariser change in a short training, and what does a step with it cost?

One network on one data set, once without any method and once with each of them at its defaults (or as `--methods`
says), for several seeds. The recipe is the one for small images without label smoothing, the same for all. A label
method brings its own smoothing. Trials run in a lab: an interrupted study goes on from the last epoch, and seeds vary
slowest.

The cost of a method is the time of its training step over that of a plain step. Both take turns on a few batches, in
the second epoch (self-distillation has no teacher in the first), and the median of the pairs counts.

    python -m benchmarks.studies.regularizers --lab FOLDER [--seeds 3] [--epochs 10] [--data cifar10] [--threads 1]
        [--model cifar_resnet20] [--methods all] [--data-root PATH] [--cost-only] [--dry]

The result is written anew after each seed. `python -m benchmarks.studies.regularizers_page` puts it on the page.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import write_result
from convswap.cli.grid import make_trials
from convswap.data import ArrayImages, Data, load_data
from convswap.errors import UsageError
from convswap.lab import Trial, run_grid
from convswap.measure.statistics import compare_to_baseline, mean_interval
from convswap.models import create_model
from convswap.regularizers import list_regularizers, parse_regularizer, text_of
from convswap.train import Recipe, default_recipe, fit, regularized
from convswap.train.allocator import keep_freed_memory
from convswap.train.regularization import check_regularizers

PLAIN = "none"
RESULT = "studies/regularizers"
_COST_STEPS = 4


def build(options: argparse.Namespace, data: Data) -> torch.nn.Module:
    """The network with fresh weights."""
    torch.manual_seed(0)
    return create_model(options.model, num_classes=data.num_classes, in_channels=data.channels)


def recipes(options: argparse.Namespace, data: Data) -> tuple[dict[str, Recipe], dict[str, str]]:
    """The recipe of each method that works here, `none` first, and the reason of each that does not."""
    base = replace(default_recipe(data, epochs=options.epochs), label_smoothing=0.0)
    found, refused = {PLAIN: base}, {}
    for text in options.methods:
        try:
            recipe = regularized(base, [text])
            check_regularizers(recipe, build(options, data), data)
        except UsageError as error:
            refused[text] = str(error)
        else:
            found[text_of(parse_regularizer(text))] = recipe
    return found, refused


def trials_of(recipe: Recipe, options: argparse.Namespace, data: Data, seed: int) -> list[Trial]:
    """The one trial of a recipe and a seed."""
    return make_trials(
        [options.model],
        ["conv"],
        {"conv": {}},
        range(seed, seed + 1),
        where={"conv": None},
        data=data,
        image_size=None,
        recipe=recipe,
        weights=None,
        pretrained=False,
        normalization="auto",
    )


def few(data: Data, count: int) -> Data:
    """The first images of a data set in memory, for timing."""
    train, test = data.train, data.test
    if not (isinstance(train, ArrayImages) and isinstance(test, ArrayImages)):
        raise UsageError("the cost is measured on images in memory; use a data set by name, such as cifar10")
    part = ArrayImages(train.images[:count], train.labels[:count])
    return replace(data, train=part, test=ArrayImages(test.images[:8], test.labels[:8]), validation=None)


def step_costs(found: dict[str, Recipe], options: argparse.Namespace, data: Data) -> dict[str, dict[str, Any]]:
    """Time of a step with each method over that of a plain step: the pairs and their median."""
    batch = found[PLAIN].batch_size
    small = few(data, _COST_STEPS * batch)

    def seconds(recipe: Recipe) -> float:
        short = replace(recipe, epochs=2)
        row = fit(build(options, data), small, short, seed=0, progress=False, device="cpu").history[-1]
        return batch / row["images_per_second"]

    costs: dict[str, dict[str, Any]] = {}
    for name, recipe in found.items():
        pairs = [(seconds(found[PLAIN]), seconds(recipe)) for _ in range(options.pairs)]
        ratios = [changed / plain for plain, changed in pairs]
        costs[name] = {"ratios": ratios, "median": statistics.median(ratios)}
        print(f"{name:32} {costs[name]['median']:.2f} times a plain step", flush=True)
    return costs


def summary(
    accuracies: dict[str, list[float]], costs: dict[str, dict[str, Any]], refused: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """One row a method, by its text: accuracy, difference to `none` in points with its interval, cost."""
    rows: dict[str, dict[str, Any]] = {}
    plain = accuracies.get(PLAIN, [])
    for text in costs:
        values = accuracies.get(text, [])
        row: dict[str, Any] = {"cost": costs[text], "accuracies": values}
        if values:
            row["accuracy"] = asdict(mean_interval([100 * value for value in values]))
        if text != PLAIN and values and plain:
            points = [[100 * value for value in side] for side in (values, plain)]
            row["against_none"] = asdict(compare_to_baseline(*points))
        rows[text] = row
    return rows | {text: {"refused": reason} for text, reason in refused.items()}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lab", type=Path, required=True, help="folder of the trials")
    parser.add_argument("--model", default="cifar_resnet20")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", default="all", help="by comma, with options as on the command line of convswap")
    parser.add_argument("--pairs", type=int, default=5, help="of timings for each cost")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cost-only", action="store_true", help="train nothing")
    parser.add_argument("--dry", action="store_true", help="print the rows, write no result")
    options = parser.parse_args(arguments)
    options.methods = list_regularizers() if options.methods == "all" else options.methods.split(",")
    return options


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    data = load_data(options.data, root=options.data_root, download=False)
    found, refused = recipes(options, data)
    for text, reason in refused.items():
        print(f"{text}: left out, since {reason}", flush=True)
    costs = step_costs(found, options, data)
    accuracies: dict[str, list[float]] = {name: [] for name in found}
    seconds: dict[str, list[float]] = {name: [] for name in found}
    payload: dict[str, Any] = {}
    for seed in range(0 if options.cost_only else options.seeds):
        trials = [trial for recipe in found.values() for trial in trials_of(recipe, options, data, seed)]
        for name, row in zip(found, run_grid(trials, options.lab, data_root=options.data_root), strict=True):
            if row.result is None:
                print(f"{name}, seed {seed}: failed: {row.reason()}", flush=True)
            else:
                accuracies[name].append(row.result["test_accuracy"])
                seconds[name].append(row.result["seconds"])
        payload = _payload(options, found, seed + 1, summary(accuracies, costs, refused), seconds)
        if not options.dry:
            write_result(RESULT, payload)
    if options.cost_only:
        payload = _payload(options, found, 0, summary({}, costs, refused), seconds)
        if not options.dry:
            write_result(RESULT, payload)
    return payload


def _payload(
    options: argparse.Namespace,
    found: dict[str, Recipe],
    seeds: int,
    rows: dict[str, dict[str, Any]],
    seconds: dict[str, list[float]],
) -> dict[str, Any]:
    for name, row in rows.items():
        change = row.get("against_none")
        said = "" if change is None else f"{change['difference']:+.2f} points [{change['low']}, {change['high']}]"
        print(f"{name:24} {row.get('refused', said)}", flush=True)
    return {
        "model": options.model,
        "data": options.data,
        "epochs": options.epochs,
        "seeds": seeds,
        "threads": options.threads,
        "recipe": found[PLAIN].as_dict(),
        "options": {text: asdict(parse_regularizer(text)) for text in found if text != PLAIN},
        "methods": rows,
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
