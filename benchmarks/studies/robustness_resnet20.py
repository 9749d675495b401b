"""How robust is a plain trained network? The pretrained CIFAR-10 ResNet-20 under everything `robustness` measures.

The script measures accuracies under the 19 corruptions at 5 severities, JPEG levels (also with the channels in the
order of the Min-Nets authors' test), all 81 shifts by up to 4 pixels, shifts of the enlarged image, rotations, shears,
quarter turns and flips. It also measures the calibration. The weights are those of
github.com/akamaster/pytorch_resnet_cifar10 (resnet20-12fca82f.th). A test compares the predictions on the first 160
images with the reference's.

    python -m benchmarks.studies.robustness_resnet20 --weights resnet20-12fca82f.th --data-root DATA [--images 1000]
        [--cifar-c FOLDER]  with the published CIFAR-10-C files: the same accuracies on them
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from statistics import fmean
from typing import Any

from torch import nn

import convswap
from benchmarks.common import write_result
from convswap.data import load_data
from convswap.lab.normalization import choose_normalization
from convswap.measure.robustness import (
    COMMON,
    Robustness,
    Sample,
    cifar_c,
    cifar_c_names,
    jpeg_sweep,
    predict,
    robustness,
    sample_of,
)


def by_severity(found: Robustness) -> dict[str, list[float]]:
    """Accuracy of each corruption at severities 1 to 5."""
    table: dict[str, list[float]] = {}
    for family in ("corruptions", "held_out"):
        for variant, scores in found.curves[family].items():
            table.setdefault(variant.partition("/")[0], []).append(scores["accuracy"])
    return table


def minnets_jpeg(model: nn.Module, sample: Sample, found: Robustness) -> dict[str, dict[str, float]]:
    """Error and changed predictions by quality when the codec is told BGR."""
    variants = jpeg_sweep(channel_order="minnets_bgr")
    table = predict(model, sample, variants)
    clean = found.predictions.column("clean")
    return {
        variant.name: {
            "error": table.error(variant.name),
            "changed": float((table.column(variant.name) != clean).double().mean()),
        }
        for variant in variants
    }


def published(model: nn.Module, sample: Sample, folder: str) -> dict[str, list[float]]:
    """Accuracy on the published files at severities 1 to 5."""
    names = cifar_c_names(folder)
    tables = {name: predict(model, sample, [cifar_c(folder, name, s) for s in range(1, 6)]) for name in names}
    return {name: [table.accuracy(variant) for variant in table.variants] for name, table in tables.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--images", type=int, default=None, help="number of test images; all by default")
    parser.add_argument("--profile", default="full", choices=["quick", "full"])
    parser.add_argument("--cifar-c", default=None, help="folder of the published CIFAR-10-C .npy files")
    options = parser.parse_args()
    data = load_data("cifar10", root=options.data_root, download=False)
    model = convswap.create_model("cifar_resnet20", num_classes=10, weights=options.weights).eval()
    constants = choose_normalization("model", model, data, trained=True)
    assert constants is not None
    data = replace(data, mean=tuple(constants["mean"]), std=tuple(constants["std"]))
    sample = sample_of(data, options.images)
    found = robustness(model, data, options.profile, images=options.images or len(sample))
    payload: dict[str, Any] = found.as_dict(with_predictions=False)
    if options.profile == "full":
        payload["accuracy_by_severity"] = table = by_severity(found)
        for name, row in table.items():
            print(f"{name:18} " + " ".join(f"{value:.1%}" for value in row))
        print(f"mean of the {len(COMMON)}: {fmean(fmean(table[name]) for name in COMMON):.2%}")
    payload["jpeg_minnets_bgr"] = minnets_jpeg(model, sample, found)
    if options.cifar_c:
        payload["published_files"] = published(model, sample, options.cifar_c)
    for name, value in found.summary.items():
        print(f"{name:45} {value:.4f}")
    write_result("studies/robustness_resnet20", payload)


if __name__ == "__main__":
    main()
