"""Does a packed binary network give the trained one's answers, and how much faster? All test images of its data set.

The script takes finished trials of a lab (`convswap compare`) and fuses each network that has binary layers to its
packed form. It evaluates both on every test image, in float32 with the native kernels. It reports accuracies, seconds
for all images, the sizes of the two files, and how many predictions of the packed network differ

- from its own with the plain torch form of the binary convolutions: with right kernels none differ;
- from the trained network's in float64 (the first `--float64` images): with right packing none differ;
- from the trained network's in float32, where BatchNorms folded into float layers are rounded in another order, so that
  a number next to a threshold may pass it and turn a sign.

Trials without binary layers are listed with their accuracy, for comparison.

    python -m benchmarks.kernels.packed_predictions --labs LAB [LAB ...] --data-root DATA [--threads 1]
        [--float64 10000]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

import convswap
from benchmarks.common import write_result
from convswap.data import ArrayImages, Data, load_data
from convswap.ops.binary_conv import PackedBinaryConv2d
from convswap.ops.binary_conv.native_calls import VARIABLE
from convswap.train import evaluate


def timed(model: nn.Module, images: ArrayImages, data: Data) -> tuple[Any, float]:
    """The result of `evaluate` in float32 on this processor, and the seconds it took."""
    start = perf_counter()
    found = evaluate(model, data, images, batch_size=100, device="cpu")
    return found, perf_counter() - start


@contextmanager
def forced(path: str) -> Iterator[None]:
    """Make binary convolutions take this path."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = path
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def bytes_on_disk(model: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return convswap.save(model, Path(folder) / "model.safetensors").stat().st_size


@torch.no_grad()
def differing_in_float64(model: nn.Module, packed: nn.Module, images: torch.Tensor) -> int:
    """Predictions that differ on these (N, C, H, W) inputs in float64."""
    exact, bits = model.double(), packed.double()
    return sum(int((exact(x).argmax(1) != bits(x).argmax(1)).sum()) for x in images.double().split(50))


def row_of(folder: Path, data: Data, float64: int) -> dict[str, Any]:
    """One trial: the trained network, its packed form, and how they differ."""
    trial = json.loads((folder / "trial.json").read_text(encoding="utf-8"))
    if trial["normalization"]:
        data = replace(data, mean=tuple(trial["normalization"]["mean"]), std=tuple(trial["normalization"]["std"]))
    model = convswap.load(folder / "model.safetensors").eval()
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    trained, seconds = timed(model, data.test, data)
    row: dict[str, Any] = {
        "model": trial["model"],
        "unit": trial["unit"],
        "epochs": len(history),
        "accuracy": trained.accuracy,
        "accuracy_in_training_precision": history[-1]["test_accuracy"],
        "seconds": seconds,
        "bytes": bytes_on_disk(model),
    }
    example = torch.zeros(1, data.channels, *data.image_size)
    fused = convswap.fuse(model, example)
    layers = [module for module in fused.modules() if isinstance(module, PackedBinaryConv2d)]
    if layers:
        found, fused_seconds = timed(fused, data.test, data)
        assert isinstance(data.test, ArrayImages)
        mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
        few = (data.test.images[:float64] / 255 - mean) / std
        with forced("torch"):
            plainly, _ = timed(fused, data.test, data)
        row["packed"] = {
            "layers": len(layers),
            "paths": sorted({layer.path() for layer in layers}),
            "accuracy": found.accuracy,
            "images": len(data.test),
            "differ_from_torch_form": int((found.predictions != plainly.predictions).sum()),
            "differ_from_trained_in_float32": int((found.predictions != trained.predictions).sum()),
            "seconds": fused_seconds,
            "bytes": bytes_on_disk(fused),
            "images_in_float64": len(few),
            "differ_from_trained_in_float64": differing_in_float64(model, fused, few),
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labs", nargs="+", type=Path, required=True)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--float64", type=int, default=10_000, help="number of images also evaluated in float64")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load_data(options.data, root=options.data_root, download=False)
    rows = []
    for folder in sorted(path.parent for lab in options.labs for path in lab.glob("trials/*/model.safetensors")):
        rows.append(row_of(folder, data, options.float64))
        print(json.dumps(rows[-1]), flush=True)
    write_result("kernels/packed_predictions", {"data": options.data, "threads": options.threads, "rows": rows})


if __name__ == "__main__":
    main()
