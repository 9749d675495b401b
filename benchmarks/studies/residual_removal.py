"""Does removing residual connections keep the function of real networks, and what does it cost?

Part one: timm's and torchvision's networks with random batch-norm statistics, at 64 px. Every residual block that can
become a chain does. Both networks run in float64, and the largest relative difference is reported, with the blocks
that stay and why, and the multiply-accumulates at the network's own image size. An interrupted run goes on.

Part two, with --weights: do the published CIFAR-10 ResNets (github.com/akamaster/pytorch_resnet_cifar10) answer as
before on all 10,000 test images, as chains and fused?

    python -m benchmarks.studies.residual_removal [--models NAME ...]
    python -m benchmarks.studies.residual_removal --weights cifar_resnet20=resnet20-12fca82f.th --data-root DATA
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import torch
from torch import nn

import convswap
from benchmarks.common import RESULTS, git_commit, write_result
from convswap.data import load_data
from convswap.lab.normalization import choose_normalization
from convswap.surgery.observe import example_input_of
from convswap.surgery.residuals.reading import is_addition
from convswap.train import evaluate

TOLERANCE = 1e-9
NAME = "studies/residual_removal"
MODELS = (
    "torchvision:resnet18",
    "torchvision:resnet50",
    "torchvision:resnext50_32x4d",
    "torchvision:mobilenet_v2",
    "torchvision:mobilenet_v3_large",
    "torchvision:regnet_y_400mf",
    "torchvision:mnasnet1_0",
    "torchvision:efficientnet_b0",
    "resnet18d",
    "resnet26t",
    "seresnet18",
    "resnext26ts",
    "resnetv2_18",
    "skresnet18",
    "res2net50_26w_4s",
    "resnetblur18",
    "efficientnet_lite0",
    "mobilenetv4_conv_small",
    "fbnetc_100",
    "regnetx_004",
    "dla34",
    "convnext_atto",
    "cifar_resnet20",
    "cifar_resnet56_b",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--weights", nargs="*", default=[], metavar="MODEL=FILE")
    parser.add_argument("--data-root", default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.weights:
        given = dict(pair.split("=", 1) for pair in options.weights)
        rows = [row for name, file in given.items() for row in answers(name, file, options.data_root)]
        write_result("studies/residual_removal_answers", {"images": 10_000, "rows": rows})
        return
    rows = kept()
    for name in options.models:
        if name not in {row["model"] for row in rows}:
            rows.append(remove(name))
            worst = max((row["difference"] for row in rows if row["removed"]), default=0.0)
            write_result(NAME, {"tolerance": TOLERANCE, "largest_difference": worst, "rows": rows})


def kept() -> list[dict[str, Any]]:
    """The rows of an interrupted run of this very commit."""
    file = RESULTS / f"{NAME}.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"commit": None}
    return found["rows"] if found["commit"] == git_commit() else []


def remove(name: str) -> dict[str, Any]:
    """One network: what became a chain, what stayed, and the costs."""
    model = randomize(convswap.create_model(name, num_classes=10))
    side = 32 if name.startswith("cifar_") else 64
    row: dict[str, Any] = {"model": name, "removed": 0, "difference": None}
    try:
        plan = convswap.plan_remove_residuals(model, noise(side))
        chain, row["difference"], row["precision"] = plan.apply_measured(tolerance=TOLERANCE)
    except convswap.ConvswapError as refusal:
        print(f"{name:32} refused: {refusal}")
        return row | {"refused": str(refusal)}
    row |= {"removed": len(plan.blocks), "skipped": [[s.path, s.reason] for s in plan.skipped]}
    row["additions_left"] = additions(convswap.fuse(chain, noise(side)), noise(side))
    declared = example_input_of(model)
    own = noise(224) if declared is None else declared.first
    whole = convswap.plan_remove_residuals(model, own)
    row |= {"image": list(own.shape[2:]), "parameters": [whole.parameters_before, whole.parameters_after]}
    row["macs"] = [whole.macs_before, whole.macs_after]
    print(
        f"{name:32} {row['removed']:3} removed, {len(plan.skipped)} stay, difference {row['difference']:.1e}, "
        f"{row['macs'][0] / 1e9:.2f} -> {row['macs'][1] / 1e9:.2f} GMAC, {row['additions_left']} additions left",
        flush=True,
    )
    return row


def randomize(model: nn.Module) -> nn.Module:
    """Random batch-norm statistics and affine parameters; eval mode."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            for tensor, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 1.5),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
            ):
                if tensor is not None:
                    drawn = torch.rand(tensor.shape, generator=generator) * (high - low) + low  # type: ignore[arg-type]
                    tensor.data.copy_(drawn)  # type: ignore[operator, union-attr]
    return model.eval()


def noise(side: int) -> torch.Tensor:
    """One image."""
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))


def additions(model: nn.Module, image: torch.Tensor) -> int:
    """The sums of two feature maps in the exported graph."""
    return sum(map(is_addition, torch.export.export(model, (image,), strict=False).graph.nodes))


def answers(name: str, file: str, root: str | None) -> list[dict[str, Any]]:
    """Accuracy of a trained network, of its chain and of the fused chain, and how many predictions changed."""
    data = load_data("cifar10", root=root, download=False)
    model = convswap.create_model(name, num_classes=10, weights=file).eval()
    constants = choose_normalization("model", model, data, trained=True)
    assert constants is not None
    data = replace(data, mean=tuple(constants["mean"]), std=tuple(constants["std"]))
    chain = convswap.remove_residuals(model, noise(32))
    plain = evaluate(model, data)
    rows = [{"model": name, "form": "as published", "accuracy": plain.accuracy, "changed": 0}]
    for form, each in (("chain", chain), ("chain, fused", convswap.fuse(chain, noise(32)))):
        found = evaluate(each, data)
        changed = int((found.predictions != plain.predictions).sum())
        rows.append({"model": name, "form": form, "accuracy": found.accuracy, "changed": changed})
    for row in rows:
        print(f"{row['model']:20} {row['form']:14} {row['accuracy']:.2%}  {row['changed']} predictions changed")
    return rows


if __name__ == "__main__":
    main()
