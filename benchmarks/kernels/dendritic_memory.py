"""How much memory does a dendritic convolution need, beside a plain one? Peak of inference and of a training step.

Each measurement runs in a fresh process (`convswap.measure.memory`): a plain convolution of the same shape, the chunked
operator behind `dendritic`, and the naive formulation that materialises (batch, out, in, H, W). Correctness first:
chunked and naive must agree in value and gradients before anything is measured. Memory is the need of a pass beyond
the parameters and the input. For a plain convolution that is its output, and in training also the gradients.

    python -m benchmarks.kernels.dendritic_memory [--threads 1]
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import write_result
from convswap.measure.peak import Mode, peak_memory
from convswap.ops.dendritic import dendritic_conv2d, dendritic_conv2d_reference
from convswap.units import DendriticConv2d

GOAL = 2.0
SHAPES = {  # batch, in, out, size, stride, memory format
    "cifar_resnet20 stage 1": (128, 16, 16, 32, 1, torch.contiguous_format),
    "cifar_resnet20 stage 1, channels last": (128, 16, 16, 32, 1, torch.channels_last),
    "cifar_resnet20 stage 3": (128, 64, 64, 8, 1, torch.contiguous_format),
    "resnet18 stage 1": (4, 64, 64, 56, 1, torch.contiguous_format),
    "resnet18 stage 1, channels last": (4, 64, 64, 56, 1, torch.channels_last),
    "resnet18 stage 2, first": (4, 64, 128, 56, 2, torch.contiguous_format),
    "resnet18 stage 3": (8, 256, 256, 14, 1, torch.contiguous_format),
    "one large image": (1, 32, 32, 512, 1, torch.contiguous_format),
}
NAIVE_MOST = 3 << 29  # bytes of activations, above which the naive form is not tried


class Naive(DendriticConv2d):
    """The unit by the reference."""

    def forward(self, input: Tensor) -> Tensor:
        """Materialise everything."""
        _, after = self._margins()
        return dendritic_conv2d_reference(input, self.weight, self.dendrite_bias, self.bias, self.stride, after)


def build(kind: str, name: str) -> tuple[nn.Module, Tensor]:
    """A module and its input."""
    batch, inputs, out, size, stride, layout = SHAPES[name]
    geometry = (inputs, out, 3, stride, 1)
    module: nn.Module
    if kind == "plain":
        module = nn.Conv2d(*geometry)
    else:
        module = {"chunked": DendriticConv2d, "naive": Naive}[kind](*geometry, bias_init=0.3)
    x = torch.randn(batch, inputs, size, size)
    return module.to(memory_format=layout), x.to(memory_format=layout)


def check(name: str) -> None:
    """Check that chunked and naive agree in value and gradients on one example."""
    torch.manual_seed(0)
    module, x = build("chunked", name)
    one = x[:1, :, :24, :24].double().contiguous().requires_grad_()
    unit = module.double()
    assert isinstance(unit, DendriticConv2d)
    _, after = unit._margins()
    tensors = [one, *(p.detach().requires_grad_() for p in (unit.weight, unit.dendrite_bias, unit.bias))]
    results = []
    for form in (dendritic_conv2d, dendritic_conv2d_reference):
        y = form(*tensors, unit.stride, after)
        results.append([y, *torch.autograd.grad(y.square().sum(), tensors)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def measure(name: str, mode: Mode, threads: int) -> dict[str, Any]:
    """Peak bytes by kind, and the ratios to the plain convolution."""
    batch, inputs, out, size, *_ = SHAPES[name]
    naive = batch * inputs * out * size * size * 4 * 3 <= NAIVE_MOST
    kinds = ["plain", "chunked", *(["naive"] if naive else [])]
    found = {
        kind: peak_memory(functools.partial(build, kind, name), mode, threads=threads, input_gradient=True)
        for kind in kinds
    }
    row: dict[str, Any] = {f"{kind}_bytes": value for kind, value in found.items()}
    row |= {f"{kind}_ratio": value / found["plain"] for kind, value in found.items() if kind != "plain"}
    return row | {"within_goal": row["chunked_ratio"] <= GOAL}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for name, (batch, inputs, out, size, stride, layout) in SHAPES.items():
        check(name)
        shape = {"batch": batch, "in": inputs, "out": out, "size": size, "stride": stride, "layout": str(layout)}
        results[name] = {"shape": shape}
        for mode in ("inference", "training"):
            row = results[name][mode] = measure(name, mode, options.threads)
            sizes = ", ".join(f"{k[:-6]} {v / 2**20:.0f} MB" for k, v in row.items() if k.endswith("_bytes"))
            ratios = ", ".join(f"{k[:-6]} {v:.2f}x" for k, v in row.items() if k.endswith("_ratio"))
            print(f"{name:38} {mode:9} {ratios:30} ({sizes})", flush=True)
    write_result("kernels/dendritic_memory", {"goal": GOAL, "threads": options.threads, "results": results})


if __name__ == "__main__":
    main()
