"""Which criterion prunes best? The pretrained CIFAR-10 ResNet-56 at half its MACs, by six criteria, fine-tuned alike.

Each row is pruned with 1,024 training images, and fine-tuned by one recipe and seed. The script reports accuracy on the
10,000 test images before, after pruning and after fine-tuning, MACs, parameters, and latency at batch 32 on one thread
beside the unpruned network, measured in turns: in eager mode, fused and compiled by torch.compile, and fused in ONNX
Runtime. Gradient redundancy is also pruned to its own cap. Two rows keep multiples of 16 channels. The weights are
those of github.com/akamaster/pytorch_resnet_cifar10 (resnet56-4bfd9763.th).

    python -m benchmarks.studies.pruning --weights resnet56-4bfd9763.th --data-root DATA --work FOLDER
        [--rows 'l1;taylor'] [--epochs 5] [--from-model NAME=FILE]

FOLDER keeps each row's pruned network and the checkpoint of its training: the same command goes on from the last epoch.
`--from-model` adds rows for another form of the network, a file of `convswap.save` (such as the network after
`remove_residuals`), pruned to as many MACs as half the plain network's. Goal: at least 1.5x faster at half the MACs.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import convswap
from benchmarks.common import write_result
from convswap.data import Data, load_data
from convswap.lab.normalization import choose_normalization
from convswap.measure.latencies.report import BUILDERS
from convswap.surgery.latency import measure_latency
from convswap.surgery.macs import count_macs
from convswap.surgery.pruning import plan_prune
from convswap.train import evaluate, fit
from convswap.train.calibration import calibration_batches
from convswap.train.recipes import fine_tune_recipe

IMAGES = 1024
EXAMPLE = torch.zeros(1, 3, 32, 32)


@dataclass(frozen=True)
class Row:
    """A criterion, its options, and whether to prune to the cap in place of half the MACs."""

    criterion: str
    options: dict[str, Any]
    to_cap: bool = False


ROWS = {
    "gradient-redundancy": Row("gradient-redundancy", {"beyond_cap": True}),
    "l1": Row("l1", {}),
    "taylor": Row("taylor", {}),
    "random": Row("random", {}),
    "fpgm": Row("fpgm", {}),
    "bn-scale": Row("bn-scale", {}),
    "gradient-redundancy, its cap": Row("gradient-redundancy", {}, to_cap=True),
    "l1, multiples of 16": Row("l1", {"multiple_of": 16}),
    "gradient-redundancy, multiples of 16": Row("gradient-redundancy", {"beyond_cap": True, "multiple_of": 16}),
    "gradient-redundancy, no folding": Row("gradient-redundancy", {"beyond_cap": True, "compensate": False}),
    "l1, folding": Row("l1", {"compensate": True}),
}
FORM_ROWS = ("gradient-redundancy", "l1")
"""The rows of other forms of the network."""


def prune_row(row: Row, model: nn.Module, data: Data, macs: float, folder: Path) -> dict[str, Any]:
    """Prune, evaluate and keep the network, or read what an earlier run kept."""
    kept = folder / "pruned.json"
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    folder.mkdir(parents=True, exist_ok=True)
    share = "cap" if row.to_cap else macs / count_macs(model, EXAMPLE)
    plan = plan_prune(model, calibration_batches(data, IMAGES), row.criterion, macs=share, **row.options)
    pruned = plan.apply().eval()
    convswap.save(pruned, folder / "pruned.safetensors")
    found = {
        "criterion": row.criterion,
        "options": row.options,
        "macs": plan.macs_after,
        "parameters": plan.parameters_after,
        "macs_share": plan.macs_after / plan.macs_before,
        "parameters_share": plan.parameters_after / plan.parameters_before,
        "cap": None if plan.cap is None else {"macs": plan.cap.macs, "parameters": plan.cap.parameters},
        "kept": {layer.path: [layer.kept, layer.channels] for layer in plan.layers},
        "accuracy_pruned": evaluate(pruned, data).accuracy,
    }
    kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def tune(data: Data, folder: Path, epochs: int) -> dict[str, Any]:
    """Fine-tune the kept network, from the last epoch of an earlier run."""
    done = folder / "tuned.json"
    if not done.exists():
        network = convswap.load(folder / "pruned.safetensors").train()
        recipe = replace(fine_tune_recipe(epochs, batch_size=128, crop_padding=4), precision="bf16")
        result = fit(network, data, recipe, seed=0, directory=folder, progress=True, label=folder.name)
        convswap.save(network.eval(), folder / "tuned.safetensors")
        told = {
            "accuracy_tuned": evaluate(network, data).accuracy,
            "history": result.history,
            "recipe": recipe.as_dict(),
        }
        done.write_text(json.dumps(told, indent=1), encoding="utf-8")
    return dict(json.loads(done.read_text(encoding="utf-8")))


def time_row(model: nn.Module, folder: Path) -> dict[str, Any]:
    """Latency of 32 images on one thread, the plain network's and the pruned one's in turns, in each runtime."""
    forms = {"plain": model.eval(), "pruned": convswap.load(folder / "pruned.safetensors")}
    fused = {name: convswap.fuse(network, EXAMPLE) for name, network in forms.items()}
    images = torch.randn(32, 3, 32, 32)
    found: dict[str, Any] = {}
    for runtime, networks in (("eager", forms), ("compiled", fused), ("onnx", fused)):
        ready = {name: BUILDERS[runtime](network, images, 1) for name, network in networks.items()}
        times = measure_latency(ready, images, threads=1)
        plain, pruned = (times[name].median_ms for name in ("plain", "pruned"))
        noisy = any(time.noisy for time in times.values())
        found[runtime] = {"plain_ms": plain, "pruned_ms": pruned, "speedup": plain / pruned, "noisy": noisy}
    return {"latency": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", default=None, help="rows of the plain network, joined by ';'; all by default")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--from-model", action="append", default=[], metavar="NAME=FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data("cifar10", root=options.data_root, download=False)
    model = convswap.create_model("cifar_resnet56", num_classes=10, weights=options.weights).eval()
    constants = choose_normalization("model", model, data, trained=True)
    assert constants is not None
    data = replace(data, mean=tuple(constants["mean"]), std=tuple(constants["std"]))
    forms = {"": model} | {n: convswap.load(f) for n, _, f in (text.partition("=") for text in options.from_model)}
    macs = count_macs(model, EXAMPLE)
    wanted = list(ROWS) if options.rows is None else options.rows.split(";")
    plain = {"accuracy": evaluate(model, data).accuracy, "macs": macs}
    rows: list[dict[str, Any]] = []
    for form, network in forms.items():
        for name in wanted if not form else FORM_ROWS:
            label = f"{form}: {name}" if form else name
            folder = options.work / label.replace(", ", "_").replace(": ", "_").replace(" ", "_")
            found = {"row": label, **prune_row(ROWS[name], network, data, macs / 2, folder)}
            print(f"{label:34} pruned to {found['macs_share']:.1%}: {found['accuracy_pruned']:.2%}", flush=True)
            found |= tune(data, folder, options.epochs) | time_row(model, folder)
            speedups = ", ".join(f"{kind} {each['speedup']:.2f}x" for kind, each in found["latency"].items())
            print(f"{label:34} tuned {found['accuracy_tuned']:.2%}, faster by {speedups}", flush=True)
            rows.append(found)
            write_result("studies/pruning_resnet56", {"images": len(data.test), "plain": plain, "rows": rows})


if __name__ == "__main__":
    main()
