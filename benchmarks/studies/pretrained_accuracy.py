"""Does a swap keep a trained network's answers? The pretrained CIFAR-10 ResNets on all 10,000 test images.

The script reports the accuracy of the published weights as they are, right after the swap to every unit, and after
fusing each, and how many predictions changed. The weights are those of github.com/akamaster/pytorch_resnet_cifar10
(resnet20-12fca82f.th).

    python -m benchmarks.studies.pretrained_accuracy --weights resnet20-12fca82f.th --data-root DATA
        [--model cifar_resnet20]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import torch

import convswap
from benchmarks.common import write_result
from convswap.data import load_data
from convswap.lab.normalization import choose_normalization
from convswap.train import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--model", default="cifar_resnet20")
    options = parser.parse_args()
    data = load_data("cifar10", root=options.data_root, download=False)
    model = convswap.create_model(options.model, num_classes=10, weights=options.weights).eval()
    constants = choose_normalization("model", model, data, trained=True)
    assert constants is not None
    data = replace(data, mean=tuple(constants["mean"]), std=tuple(constants["std"]))
    plain = evaluate(model, data)
    rows: list[dict[str, Any]] = [{"model": "as published", "accuracy": plain.accuracy, "changed": 0}]
    example = torch.zeros(1, 3, 32, 32)
    rows_of_units = [convswap.get_unit(name) for name in convswap.list_units()]
    for unit in (spec.name for spec in rows_of_units if spec.warm_start == "exact"):
        swapped = convswap.swap(model, unit, example_input=example)
        for name, each in ((f"swapped to {unit}", swapped), (f"{unit}, fused", convswap.fuse(swapped, example))):
            found = evaluate(each, data)
            changed = int((found.predictions != plain.predictions).sum())
            rows.append({"model": name, "accuracy": found.accuracy, "changed": changed})
    for row in rows:
        print(f"{row['model']:28} {row['accuracy']:.2%}  {row['changed']} predictions changed")
    write_result(f"studies/pretrained_accuracy_{options.model}", {"images": len(data.test), "rows": rows})


if __name__ == "__main__":
    main()
