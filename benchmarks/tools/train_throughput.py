"""Does the training loop cost anything? `fit` against a bare PyTorch loop, images per second.

Both train cifar_resnet20 on the same synthetic uint8 images of CIFAR's shape, with the same batch, precision, memory
format, crops and flips (the same function, so only the loop differs). They take turns in one process. A second figure
is the augmentation's share of a bare step. The goal is a median ratio of at least 0.95.

    python -m benchmarks.tools.train_throughput [--steps 12] [--repeats 8] [--batch-size 128] [--device auto]
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from torch.nn import functional as F

from benchmarks.common import write_result
from convswap.data import ArrayImages, Data
from convswap.models import create_model
from convswap.train import Recipe, fit
from convswap.train.augment import Draws, Normalize, crop_flip
from convswap.train.precision import autocast, input_dtype, resolve_device, resolve_precision

GOAL = 0.95


def synthetic(count: int) -> Data:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator).to(torch.uint8)
    labels = torch.randint(0, 10, (count,), generator=generator)
    train, test = ArrayImages(images, labels), ArrayImages(images[:128], labels[:128])
    names = tuple("0123456789")
    return Data("synthetic", train, test, 10, 3, (32, 32), (0.5,) * 3, (0.25,) * 3, names, "synthetic", True)


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("cifar_resnet20", num_classes=10)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bare(data: Data, recipe: Recipe, device: torch.device) -> tuple[float, float]:
    """Images per second of a plain loop, and the share of its time that augmentation takes."""
    precision = resolve_precision(recipe.precision, device)
    net = model().to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True, fused=True)
    normalize = Normalize(data.mean, data.std, device=device, dtype=input_dtype(precision))
    pixels = data.train.images.permute(0, 2, 3, 1).contiguous().to(device)
    labels = data.train.labels.to(device)
    count, size = len(labels), recipe.batch_size
    augmenting = 0.0
    synchronize(device)
    start = time.perf_counter()
    order = torch.randperm(count).to(device)
    draws = Draws.draw(count, padding=recipe.crop_padding, flip=True, generator=torch.Generator()).to(device)
    for begin in range(0, count - size + 1, size):
        before = time.perf_counter()
        rows = slice(begin, begin + size)
        images = normalize(crop_flip(pixels, order[rows], draws[rows]))
        augmenting += time.perf_counter() - before
        with autocast(precision, device):
            logits = net(images)
        loss = F.cross_entropy(logits.float(), labels[order[rows]], label_smoothing=recipe.label_smoothing)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    synchronize(device)
    seconds = time.perf_counter() - start
    return count / seconds, augmenting / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = resolve_device(options.device)
    data = synthetic(options.steps * options.batch_size)
    recipe = Recipe(epochs=1, batch_size=options.batch_size)
    speeds: dict[str, list[float]] = {"bare": [], "fit": []}
    shares = []
    for repeat in range(options.repeats + 1):
        for name in ("bare", "fit") if repeat % 2 else ("fit", "bare"):
            if name == "fit":
                speed = fit(model(), data, recipe, seed=0, progress=False, device=str(device)).images_per_second
            else:
                speed, share = bare(data, recipe, device)
            if repeat:  # the first round warms up
                speeds[name].append(speed)
                if name == "bare":
                    shares.append(share)
    ratios = [ours / theirs for ours, theirs in zip(speeds["fit"], speeds["bare"], strict=True)]
    ratio, best = median(ratios), max(speeds["fit"]) / max(speeds["bare"])
    print(f"bare loop {median(speeds['bare']):8,.0f} images/s")
    print(f"fit       {median(speeds['fit']):8,.0f} images/s")
    print(f"ratio     {ratio:.3f} (median of {len(ratios)} pairs), {best:.3f} of the best rounds; goal {GOAL}")
    print(f"augmentation takes {median(shares):.1%} of a bare step")
    write_result(
        "tools/train_throughput",
        {
            "model": "cifar_resnet20",
            "precision": resolve_precision(recipe.precision, device),
            "device": str(device),
            "batch_size": options.batch_size,
            "steps": options.steps,
            "images_per_second": speeds,
            "ratios": ratios,
            "median_ratio": ratio,
            "ratio_of_best": best,
            "augmentation_share": median(shares),
            "goal": GOAL,
            "reached": ratio >= GOAL,
        },
    )


if __name__ == "__main__":
    main()
