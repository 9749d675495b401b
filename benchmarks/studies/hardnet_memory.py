"""How much memory do the activations of HarDNet and ThreshNet need in inference, beside DenseNet's and ResNet's?

Peak memory of a pass over 224x224 images, beyond network and images, in a fresh process each
(`convswap.measure.peak_memory`). HarDNet-68 has the accuracy class of DenseNet-121 (ImageNet top-1 76.5 and 74.4 % in
the authors' tables). Its harmonic blocks let go of a map when the map's last reader is done. The row `kept` is the same
network with every map of a block kept to the block's end: what letting go is worth. Both must give the same answers.

    python -m benchmarks.studies.hardnet_memory [--batch 8]
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import write_result
from convswap.measure import peak_memory
from convswap.models import create_model
from convswap.models.hardnet import HarmonicBlock

NETWORKS = ("densenet121", "hardnet68", "hardnet68ds", "hardnet85", "threshnet79", "threshnet95", "resnet50")
HARMONIC = ("hardnet68", "hardnet68ds", "hardnet85", "threshnet79", "threshnet95")
PEER, GOAL = "densenet121", 1.0


def build(name: str, kept: bool, batch: int) -> tuple[nn.Module, Tensor]:
    """The network, perhaps one that keeps every map of a block, and its images."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=1000)
    for module in model.modules():
        if kept and isinstance(module, HarmonicBlock):
            module._finished = [[] for _ in module._finished]
    return model.eval(), torch.randn(batch, 3, 224, 224)


@torch.no_grad()
def check(name: str) -> None:
    """Letting go of maps changes no answer."""
    (own, images), (other, _) = (build(name, kept, 1) for kept in (False, True))
    assert torch.equal(own(images), other(images)), name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for name in NETWORKS:
        row = results[name] = {"peak_bytes": peak_memory(functools.partial(build, name, False, options.batch))}
        if name in HARMONIC:
            check(name)
            row["kept_bytes"] = peak_memory(functools.partial(build, name, True, options.batch))
        row["ratio"] = row["peak_bytes"] / results[PEER]["peak_bytes"]
        kept = f", {row['kept_bytes'] / 2**20:.0f} MB with every map kept" if "kept_bytes" in row else ""
        print(f"{name:12} {row['peak_bytes'] / 2**20:.0f} MB, {row['ratio']:.2f} of {PEER}{kept}", flush=True)
    within = results["hardnet68"]["ratio"] < GOAL
    payload = {"batch": options.batch, "size": 224, "goal": GOAL, "within_goal": within, "results": results}
    write_result("studies/hardnet_memory", payload)


if __name__ == "__main__":
    main()
