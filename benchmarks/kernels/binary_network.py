"""The whole network of `binary_conv.py`: packed XNOR-ResNet-18 beside the same ResNet-18 in fp32, compiled."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import convswap
from convswap.models import create_model
from convswap.ops.binary_conv.module import PackedBinaryConv2d
from convswap.units import without_marks

SIZE = 224
TWINS = "resnet18", "xnor_resnet18"
REST = "additions, Python"
SPEED_GOAL, MEMORY_GOAL = 6.0, 10.0

Run = Callable[[], Tensor]


def settle(model: nn.Module) -> nn.Module:
    """Running statistics and affine parameters as after training, so that no BatchNorm is the identity."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight):
                tensor.data = torch.rand(tensor.shape, generator=generator) + 0.5
            for tensor in (module.running_mean, module.bias):
                tensor.data = torch.randn(tensor.shape, generator=generator) * 0.1
    return model.eval().to(memory_format=torch.channels_last)


def compiled(model: nn.Module) -> nn.Module:
    """torch's best for fp32 inference: weights frozen into the graph, so that oneDNN reorders them once."""
    import torch._inductor.config as inductor

    torch.compiler.reset()
    inductor.freezing = True
    return torch.compile(model, fullgraph=True)


def weight_bytes(model: nn.Module, *, binary: bool | None = None) -> int:
    """Bytes of the state; of the packed layers only (True), of the others only (False)."""
    layers = [module for module in model.modules() if isinstance(module, PackedBinaryConv2d)]
    inside = {tensor.data_ptr() for layer in layers for tensor in without_marks(layer.state_dict()).values()}
    return sum(
        tensor.numel() * tensor.element_size()
        for tensor in without_marks(model.state_dict()).values()
        if binary is None or (tensor.data_ptr() in inside) == binary
    )


def kind_of(name: str, module: nn.Module) -> str:
    """The row of the profile to which a module's time belongs."""
    if isinstance(module, PackedBinaryConv2d):
        return "binary convolutions"
    if name.startswith(("conv1", "bn1", "relu", "maxpool")):
        return "stem (fp32)"
    if "downsample" in name:
        return "projections of the shortcuts (fp32)"
    if isinstance(module, nn.Linear):
        return "classifier (fp32)"
    return "BatchNorm, rectifiers, pooling"


def profile(model: nn.Module, x: Tensor, rounds: int) -> dict[str, float]:
    """Microseconds of each kind of module (each the least of the rounds) and their sum, eagerly."""
    begun: dict[int, float] = {}
    spent: dict[str, float] = {}

    def before(module: nn.Module, inputs: object) -> None:
        begun[id(module)] = time.perf_counter()

    def after_for(kind: str) -> Callable[..., None]:
        def after(module: nn.Module, inputs: object, output: object) -> None:
            spent[kind] = spent.get(kind, 0.0) + time.perf_counter() - begun[id(module)]

        return after

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, PackedBinaryConv2d) or not list(module.children()):
            handles += [module.register_forward_pre_hook(before),
                        module.register_forward_hook(after_for(kind_of(name, module)))]  # fmt: skip
    best: dict[str, float] = {}
    for number in range(rounds + 2):
        spent.clear()
        start = time.perf_counter()
        model(x)
        total = time.perf_counter() - start
        if number > 1:
            for kind, seconds in {**spent, REST: total - sum(spent.values())}.items():
                best[kind] = min(best.get(kind, seconds), seconds)
    for handle in handles:
        handle.remove()
    return {**{kind: seconds * 1e6 for kind, seconds in best.items()}, "total": sum(best.values()) * 1e6}


def measure_network(threads: int, rounds: int) -> dict[str, Any]:
    """Times, profile and weight memory at batch 1. Prints them."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x = torch.randn(1, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    float_twin, latent = (settle(create_model(name, num_classes=1000)) for name in TWINS)
    packed = convswap.fuse(latent, x).eval()
    runs: dict[str, Run] = {}
    with torch.inference_mode():
        expected = latent(x)
        # A sign may turn if two roundings of one sum lie on both sides of a threshold, but classes must agree.
        red = [] if torch.equal(packed(x).argmax(1), expected.argmax(1)) else ["packed network predicts another class"]
        error = float((packed(x) - expected).norm() / expected.norm())
        if not error < 1e-2:
            red.append(f"packed network is off by {error:.1e}")
    with torch.no_grad():
        fp32 = compiled(float_twin)
        ours = torch.compile(packed, fullgraph=True)
        if not torch.allclose(fp32(x), float_twin(x), atol=1e-2, rtol=1e-2):
            red.append("compiled fp32 network differs from itself")
        runs = {
            "fp32 resnet18, compiled": lambda: fp32(x),
            "fp32 resnet18, eager": lambda: float_twin(x),
            "packed xnor_resnet18, eager": lambda: packed(x),
            "packed xnor_resnet18, compiled": lambda: ours(x),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(rounds + 3):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                if number > 2:
                    seconds[name].append(time.perf_counter() - start)
        where = profile(packed, x, rounds)
    least = {name: min(times) for name, times in seconds.items()}
    base = least["fp32 resnet18, compiled"]
    memory = {
        "fp32": weight_bytes(float_twin),
        "packed": weight_bytes(packed),
        "packed, binary layers": weight_bytes(packed, binary=True),
        "packed, layers kept in fp32": weight_bytes(packed, binary=False),
    }
    memory["factor"] = memory["fp32"] / memory["packed"]
    best = max(base / time_ for name, time_ in least.items() if name.startswith("packed"))
    print(f"\nResNet-18, {SIZE} px, batch 1, {threads} thread{'s' * (threads > 1)}")
    if red:
        print(f"  RED: {'; '.join(red)}")
    else:
        for name, seconds_ in least.items():
            print(f"  {name:32} {seconds_ * 1e3:7.2f} ms (median {statistics.median(seconds[name]) * 1e3:7.2f})"
                  f"  {base / seconds_:5.2f}x")  # fmt: skip
        print(f"  goal {SPEED_GOAL:g}x: {'met' if best >= SPEED_GOAL else 'MISSED'} ({best:.1f}x)")
        print("  where the time of the packed network goes (eager):")
        for kind, microseconds in sorted(where.items(), key=lambda row: -row[1]):
            print(f"    {kind:36} {microseconds:8.0f} us  {microseconds / where['total']:4.0%}")
    print(f"  weights: {memory['fp32'] / 1e6:.2f} MB -> {memory['packed'] / 1e6:.2f} MB, {memory['factor']:.1f}x "
          f"smaller (goal {MEMORY_GOAL:g}x: {'met' if memory['factor'] >= MEMORY_GOAL else 'MISSED'}); not 32x: "
          f"{memory['packed, layers kept in fp32'] / 1e6:.2f} MB of it are the stem, the shortcuts' projections, the "
          f"classifier and BatchNorm in fp32, {memory['packed, binary layers'] / 1e6:.2f} MB the bits and their scales "
          "and thresholds")  # fmt: skip
    return {
        "threads": threads,
        "error": error,
        "red": red,
        "least_ms": {} if red else {name: s * 1e3 for name, s in least.items()},
        "median_ms": {} if red else {name: statistics.median(s) * 1e3 for name, s in seconds.items()},
        "times_compiled_fp32": None if red else best,
        "profile_us": {} if red else where,
        "weight_bytes": memory,
    }
