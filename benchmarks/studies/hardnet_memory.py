"""How much memory do the activations of HarDNet and ThreshNet need in inference, beside DenseNet's and ResNet's?

A pass over 224x224 images, in bytes beyond network and images. `tensors`: the largest sum of all tensors that live at
one time. `fused`: the same after `convswap.fuse`. `blocks`: the same while a dense or harmonic block runs, its input
included; the peak of the whole pass is in the stem in most of these networks. These three are exact, and the same on
every machine. `resident`: the memory of a fresh process (`convswap.measure.peak_memory`), with what kernels and the C
library's allocator take. It varies from run to run by tens of MB.

HarDNet-68 has the accuracy class of DenseNet-121 (ImageNet top-1 76.5 and 74.4 % in the authors' tables). Its harmonic
blocks let go of a map when the map's last reader is done. The figures `kept` are of the same network with every map of
a block kept to the block's end: what letting go is worth. Both must give the same answers.

    python -m benchmarks.studies.hardnet_memory [--batch 8]
"""

from __future__ import annotations

import argparse
import functools
import weakref
from typing import Any

import torch
from timm.models.densenet import DenseBlock
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import convswap
from benchmarks.common import write_result
from convswap.measure import peak_memory
from convswap.models import create_model
from convswap.models.hardnet import HarmonicBlock
from convswap.models.threshnet import ThreshLayer

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


class Living(TorchDispatchMode):
    """Follows the storages that operators make, until they are freed.

    Attributes:
        peak: the most bytes that lived at one time.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.note(tensor.untyped_storage())
        return result

    def note(self, storage: torch.UntypedStorage) -> None:
        """Count a storage from now until it is freed."""
        key = storage._cdata
        if key not in self.known and key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            weakref.finalize(storage, self.sizes.pop, key)
            self.peak = max(self.peak, sum(self.sizes.values()))


def living_bytes(module: nn.Module, x: Tensor) -> int:
    """The largest sum of living tensors in a pass."""
    with torch.inference_mode(), Living([*module.parameters(), *module.buffers()]) as living:
        module(x)
    return living.peak


def tensor_bytes(name: str, kept: bool, batch: int) -> dict[str, int]:
    """The figures `tensors`, `fused` and `blocks`, found on the meta device."""
    model, images = build(name, kept, batch)
    fused = convswap.fuse(model, images[:1, :, :64, :64].contiguous()).to("meta")
    model, images = model.to("meta"), images.to("meta")
    found = {"tensors": living_bytes(model, images), "fused": living_bytes(fused, images)}
    blocks: list[tuple[nn.Module, Tensor]] = []
    for module in model.modules():
        if isinstance(module, HarmonicBlock | DenseBlock) or (
            isinstance(module, nn.Sequential) and len(module) and isinstance(module[0], ThreshLayer)
        ):
            module.register_forward_pre_hook(lambda module, args: blocks.append((module, args[0])))
    with torch.no_grad():
        model(images)
    for module, _ in blocks:
        module._forward_pre_hooks.clear()
    if blocks:
        found["blocks"] = max(living_bytes(module, x) + x.untyped_storage().nbytes() for module, x in blocks)
    return found


def check_counter() -> None:
    """Two maps of 1 KiB live beside each other in a chain of ReLUs, three where the first is read again."""
    with torch.device("meta"):
        x = torch.empty(256)
    for expected, chain in ((2048, lambda: x.relu().relu().relu()), (3072, lambda: (y := x.relu()) + y.relu())):
        with Living([x]) as living:
            chain()
        assert living.peak == expected, living.peak


def measure(name: str, *, kept: bool, batch: int) -> dict[str, int]:
    """All figures of a network."""
    return tensor_bytes(name, kept, batch) | {"resident": peak_memory(functools.partial(build, name, kept, batch))}


def shown(row: dict[str, Any]) -> str:
    """The figures in MB."""
    return ", ".join(f"{figure} {value / 2**20:.1f}" for figure, value in row.items() if isinstance(value, int))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    check_counter()
    results: dict[str, Any] = {}
    for name in NETWORKS:
        row = results[name] = measure(name, kept=False, batch=options.batch)
        print(f"{name:12} {shown(row)} MB", flush=True)
        if name in HARMONIC:
            check(name)
            row["kept"] = measure(name, kept=True, batch=options.batch)
            print(f"{'':12} {shown(row['kept'])} MB with every map kept", flush=True)
    ratio = {key: results["hardnet68"][key] / results[PEER][key] for key in ("tensors", "fused", "blocks")}
    print("hardnet68 beside densenet121:", ", ".join(f"{key} {value:.2f}" for key, value in ratio.items()))
    within = ratio["tensors"] < GOAL
    payload = {"batch": options.batch, "size": 224, "goal": GOAL, "within_goal": within, "ratio": ratio}
    write_result("studies/hardnet_memory", payload | {"results": results})


if __name__ == "__main__":
    main()
