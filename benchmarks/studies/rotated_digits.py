"""Does a harmonic network read rotated digits better than a plain one of its size, and are its logits invariant?

12,000 real MNIST digits, each turned once by a random angle (seeded; bilinear, zeros outside), train `harmonic_mnist`
and `plain_mnist`, which have the same number of parameters, by one recipe: Adam, one cycle of the learning rate, no
augmentation. The test digits are also turned by random angles. All networks get the same data; a seed draws the weights
and the order. The script reports the mean test error with its 95% interval (Student's t over seeds) and the difference
with Welch's interval. For the trained networks it reports how far the logits move when the upright test digits are
turned by multiples of 15 degrees, relative to their distance from digit to digit: `|f(turned x) - f(x)| / |f(x) - mean
f|`. For quarter turns it does so in float64, by exact permutation of the pixels. `plain_mnist_long` is trained for four
times the epochs.

    python -m benchmarks.studies.rotated_digits --folder FOLDER [--seeds 5] [--epochs 5] [--threads 1]
        [--data-root PATH]

Every finished training is one line of `FOLDER/runs.jsonl`; an interrupted run goes on behind the last one. Lines of
other settings are ignored. The result is written when all runs are finished.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convswap
from benchmarks.common import write_result
from convswap.data import load_data
from convswap.measure.statistics import compare_to_baseline, mean_interval
from convswap.train.precision import autocast, resolve_precision

CPU = torch.device("cpu")
MODELS = {  # what each is, besides its name
    "harmonic_mnist": "circular harmonic filters, orders 0 and 1",
    "plain_mnist": "plain 3x3 convolutions in the same layout, more channels, the same number of parameters",
    "plain_mnist_long": "the same, trained for four times the epochs",
    "plain_mnist_5x5": "plain 5x5 convolutions, fewer channels, the same number of parameters",
}
LONGER = 4
STEP = 15  # degrees
_DATA_SEED = 0
_CURVE_IMAGES = 256


def build(name: str) -> nn.Module:
    """One of `MODELS`, in NCHW, which is the faster layout for these 5x5 kernels."""
    plain = {"plain_mnist_long": {}, "plain_mnist_5x5": {"kernel_size": 5}}
    registered = "plain_mnist" if name in plain else name
    return convswap.create_model(registered, num_classes=10, in_channels=1, **plain.get(name, {}))


def turned(images: Tensor, degrees: Tensor | float) -> Tensor:
    """Each image turned counter-clockwise about its centre by its angle: bilinear, zeros outside.

    (N, C, H, W) float, and an angle or (N,) angles; square images.
    """
    angles = torch.as_tensor(degrees, dtype=torch.float64).expand(len(images)) * (math.pi / 180)
    cosine, sine = angles.cos(), angles.sin()
    zero = torch.zeros_like(cosine)
    # Where an output pixel reads: x to the right, y down.
    matrix = torch.stack([cosine, -sine, zero, sine, cosine, zero], 1).view(-1, 2, 3).to(images)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def rotated_sets(train: int, test: int, root: str | None) -> dict[str, Tensor]:
    """The turned training and test images and the upright test images, all normalised equally, and the labels."""
    data: Any = load_data("mnist", root=root, download=False)
    generator = torch.Generator().manual_seed(_DATA_SEED)
    sets: dict[str, Tensor] = {}
    for part, count in (("train", train), ("test", test)):
        source = getattr(data, part)
        chosen = torch.randperm(len(source), generator=generator)[:count]
        upright = source.images[chosen].float() / 255
        angles = 360 * torch.rand(len(chosen), generator=generator)
        sets[part], sets[f"{part}_labels"] = turned(upright, angles), source.labels[chosen]
    sets["upright"] = upright[:_CURVE_IMAGES]
    mean, std = sets["train"].mean(), sets["train"].std()
    return sets | {name: (sets[name] - mean) / std for name in ("train", "test", "upright")}


def train_model(
    model: nn.Module, sets: dict[str, Tensor], options: argparse.Namespace, epochs: int, seed: int
) -> list[float]:
    """Train in place; the mean loss of each epoch."""
    images, labels = sets["train"], sets["train_labels"]
    per_epoch = len(images) // options.batch
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    steps = epochs * per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=steps, pct_start=0.2)
    generator, losses = torch.Generator().manual_seed(seed), []
    model.train()
    for epoch in range(epochs):
        start, total = time.perf_counter(), 0.0
        for chosen in torch.randperm(len(images), generator=generator)[: per_epoch * options.batch].split(
            options.batch
        ):
            with autocast(options.precision, CPU):
                loss = F.cross_entropy(model(images[chosen]).float(), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        losses.append(total / per_epoch)
        print(f"  epoch {epoch + 1}: loss {losses[-1]:.4f}, {time.perf_counter() - start:.0f} s", flush=True)
    return losses


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor, batch: int = 250) -> Tensor:
    """In evaluation, in the model's precision."""
    return torch.cat([model.eval()(part) for part in images.split(batch)])


def invariance_error(model: nn.Module, images: Tensor, degrees: float) -> float:
    """`|f(turned x) - f(x)| / |f(x) - mean f|` over all images; quarter turns by permuting pixels, others `turned`."""
    quarters, rest = divmod(degrees, 90)
    moved = torch.rot90(images, int(quarters), (2, 3)) if rest == 0 else turned(images - images.min(), degrees)
    moved = moved if rest == 0 else moved + images.min()  # outside the image is its background
    before, after = logits_of(model, images), logits_of(model, moved)
    return float(torch.linalg.vector_norm(after - before) / torch.linalg.vector_norm(before - before.mean(0)))


def measure(model: nn.Module, sets: dict[str, Tensor]) -> dict[str, Any]:
    """Test error in percent, the rotation curve, and the largest error of quarter turns in float64."""
    wrong = logits_of(model, sets["test"]).argmax(1) != sets["test_labels"]
    exact, few = copy.deepcopy(model).double().eval(), sets["upright"][:16].double()
    return {
        "test_error_percent": 100 * float(wrong.double().mean()),
        "rotation_curve": {d: invariance_error(model, sets["upright"], d) for d in range(0, 360, STEP)},
        "quarter_turns_float64": max(invariance_error(exact, few, d) for d in (90, 180, 270)),
    }


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings in which a line must agree to be used."""
    return {name: getattr(options, name) for name in ("epochs", "batch", "lr", "precision", "train", "test")}


def finished(path: Path, wanted: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """The lines of these settings, by model and seed. A last line that was cut off is skipped."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    lines = path.read_text(encoding="utf-8") if path.exists() else ""
    if lines and not lines.endswith("\n"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")  # so that the next line stands alone
    for text in lines.splitlines():
        try:
            row = json.loads(text)
        except json.JSONDecodeError:
            print(f"{path.name}: passing over a line that was cut off")
            continue
        if row["settings"] == wanted:
            found[row["model"], row["seed"]] = row
    return found


def summary(rows: list[dict[str, Any]], models: list[str]) -> dict[str, Any]:
    """Means with intervals, differences to the first plain network, mean rotation curves."""
    by_model = {name: [row for row in rows if row["model"] == name] for name in models}
    errors = {name: [row["test_error_percent"] for row in found] for name, found in by_model.items()}
    curves = {
        name: {str(d): sum(row["rotation_curve"][str(d)] for row in found) / len(found) for d in range(0, 360, STEP)}
        for name, found in by_model.items()
    }
    result: dict[str, Any] = {
        "test_error_percent": {name: asdict(mean_interval(values)) for name, values in errors.items()},
        "rotation_curve": curves,
        "quarter_turns_float64": {n: max(row["quarter_turns_float64"] for row in f) for n, f in by_model.items()},
    }
    ours = result["test_error_percent"].get("harmonic_mnist")
    for name in models:
        plain = result["test_error_percent"][name]
        if ours is not None and name != "harmonic_mnist":
            apart = None if ours["high"] is None or plain["low"] is None else ours["high"] < plain["low"]
            comparison = asdict(compare_to_baseline(errors["harmonic_mnist"], errors[name]))
            result[f"harmonic_mnist against {name}"] = comparison | {"intervals_apart": apart}
    return result


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for runs.jsonl")
    parser.add_argument("--models", default="harmonic_mnist,plain_mnist,plain_mnist_long")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--lr", type=float, default=0.0076)
    parser.add_argument("--train", type=int, default=12_000)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--dry", action="store_true", help="print the summary, write no result")
    options = parser.parse_args(arguments)
    options.precision = resolve_precision(options.precision, CPU)
    if unknown := set(options.models.split(",")) - set(MODELS):
        parser.error(f"--models: unknown {', '.join(sorted(unknown))}; choose from {', '.join(MODELS)}")
    return options


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    path, models = options.folder / "runs.jsonl", options.models.split(",")
    sets = rotated_sets(options.train, options.test, options.data_root)
    done = finished(path, settings(options))
    wanted = [(name, seed) for seed in range(options.seeds) for name in models if (name, seed) not in done]
    for name, seed in wanted:
        print(f"{name}, seed {seed}", flush=True)
        torch.manual_seed(seed)
        model, start = build(name), time.perf_counter()
        epochs = options.epochs * (LONGER if name.endswith("_long") else 1)
        losses = train_model(model, sets, options, epochs, seed)
        seconds = time.perf_counter() - start
        row = {"model": name, "seed": seed, "settings": settings(options), "seconds": seconds, "losses": losses}
        row |= {"parameters": sum(p.numel() for p in model.parameters())} | measure(model, sets)
        row = json.loads(json.dumps(row))
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        done[name, seed] = row
        print(f"{name}, seed {seed}: test error {row['test_error_percent']:.2f} %, {seconds:.0f} s", flush=True)
    rows = [done[name, seed] for seed in range(options.seeds) for name in models]
    found = summary(rows, models)
    for name in models:
        i = found["test_error_percent"][name]
        ends = "" if i["low"] is None else f" [{i['low']:.2f}, {i['high']:.2f}]"
        at = ", ".join(f"{d}: {found['rotation_curve'][name][str(d)]:.1e}" for d in (15, 45, 90, 180))
        print(f"{name:16} error {i['mean']:.2f} %{ends}; logits move by {at}")
    payload = {
        "settings": settings(options) | {"train_images": len(sets["train"]), "test_images": len(sets["test"])},
        "threads": options.threads,
        "models": {name: MODELS[name] for name in models},
        "parameters": {row["model"]: row["parameters"] for row in rows},
        "results": found,
        "runs": [{k: row[k] for k in ("model", "seed", "test_error_percent", "seconds", "losses")} for row in rows],
    }
    if not options.dry:
        write_result("studies/rotated_digits", payload)
    return payload


if __name__ == "__main__":
    main()
