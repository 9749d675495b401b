"""Measurements of gpu_checks.py in its own process: Triton kernels against references, their time, fused networks."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

TOLERANCE = 1e-4  # of a float32 sum, as a part of the largest value


def check_binary(device: str, count: int) -> dict[str, Any]:
    """Drawn geometries, every form: sums bit for bit, on the device, against a float64 convolution of signs there."""
    from convswap.ops.binary_conv import pack_weight, triton_kernel

    draw, wrong, checked = random.Random(0), [], 0
    small = device == "cpu"
    for case in range(count):
        torch.manual_seed(case)
        groups = draw.choice([1, 1, 1, 2])
        channels = groups * draw.choice([3, 64] if small else [3, 31, 64, 65, 96, 128, 200, 256])
        outputs = groups * draw.choice([1, 9] if small else [1, 9, 16, 40, 64, 130, 256])
        kernel = draw.choice([(1, 1), (3, 3), (2, 3), (5, 5)])
        stride, dilation = (draw.randint(1, 3), draw.randint(1, 3)), (draw.randint(1, 2), draw.randint(1, 2))
        padding = tuple(draw.randint(0, 2) for _ in range(4))
        size = [d * (k - 1) + draw.randint(1, 3 if small else 20) for d, k in zip(dilation, kernel, strict=True)]
        x = torch.randn(draw.randint(1, 2 if small else 9), channels, *size, device=device)
        w = torch.randn(outputs, channels // groups, *kernel, device=device)
        scale, bias = torch.rand(outputs, device=device), torch.randn(outputs, device=device)
        limit = torch.randint(-9, 9, (outputs,), device=device, dtype=torch.int32)
        flip = torch.rand(outputs, device=device) > 0.5
        signs, weight = (torch.where(t >= 0, 1.0, -1.0).double() for t in (x, w))
        dots = F.conv2d(F.pad(signs, padding), weight, None, stride, 0, dilation, groups).float()
        expected = dots * scale[:, None, None] + bias[:, None, None]
        bits = triton_kernel.pack(dots, limit.float(), flip, 1)
        words, packed = triton_kernel.pack(x, None, None, groups), pack_weight(w.cpu(), groups).to(device)
        where = channels, outputs, stride, padding, dilation, groups
        for form in triton_kernel.FORMS:
            if 2 * -(-(channels // groups) // 64) % form.step:
                continue
            checked += 1
            y = triton_kernel.conv2d(words, packed, scale, bias, None, *where, False, form)
            sign = triton_kernel.conv2d_sign(words, packed, limit, flip, *where, form)
            if not (torch.equal(y, expected) and torch.equal(sign, bits)):
                wrong.append(
                    {"case": case, "form": list(form), "geometry": [list(x.shape), list(w.shape), *map(str, where)]}
                )
    return {"checked": checked, "wrong": wrong[:20], "wrong_count": len(wrong)}


def check_dendritic(device: str, count: int) -> dict[str, Any]:
    """Drawn geometries: value and gradients against autograd of the reference in float64, and the same bits twice."""
    from convswap.ops.dendritic import dendritic_conv2d_reference
    from convswap.ops.dendritic import triton_kernels as tk

    draw, wrong = random.Random(0), []
    most = 4 if device == "cpu" else 40
    for case in range(count):
        torch.manual_seed(case)
        groups, kernel = draw.choice([1, 1, 2]), (draw.randint(1, 4), draw.randint(1, 5))
        stride, dilation = (draw.randint(1, 3), draw.randint(1, 3)), (draw.randint(1, 2), draw.randint(1, 2))
        padding = tuple(draw.randint(0, 2) for _ in range(4))
        size = [d * (k - 1) + draw.randint(1, most // 2) for d, k in zip(dilation, kernel, strict=True)]
        x = torch.randn(draw.randint(1, 3), groups * draw.randint(1, most), *size, device=device)
        weight = torch.randn(groups * draw.randint(1, most), x.shape[1] // groups, *kernel, device=device)
        bias = torch.randn(weight.shape if draw.random() < 0.5 else weight.shape[:2], device=device)
        where = stride, padding, dilation, groups
        leaves = [t.double().requires_grad_() for t in (x, weight, bias)]
        expected = dendritic_conv2d_reference(*leaves, None, *where)
        gradient = torch.randn_like(expected)
        wanted = [expected.detach(), *torch.autograd.grad(expected, leaves, gradient)]

        def run(values: tuple[Tensor, ...] = (x, weight, bias), g: Tensor = gradient, where: Any = where) -> list[Any]:
            y = tk.dendritic_forward_cuda(*values, None, *where)
            return [y, *tk.dendritic_backward_cuda(g.float(), *values, *where, (True, True, True))]

        first, second = run(), run()
        errors = [
            ((one.double() - other).abs().max() / other.abs().max().clamp_min(1)).item()
            for one, other in zip(first, wanted, strict=True)
        ]
        same = all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
        if not same or not max(errors) < TOLERANCE:
            wrong.append({"case": case, "errors": errors, "same_bits": same, "where": str(where), "x": list(x.shape)})
    return {"checked": count, "wrong": wrong[:20], "wrong_count": len(wrong)}


def check_operators(device: str, count: int) -> dict[str, Any]:
    """Modules that use the kernels through the operators, eager and compiled, beside themselves on the CPU."""
    from torch import nn

    from convswap.ops.binary_conv import PackedBinaryConv2d
    from convswap.units import DendriticConv2d

    torch.manual_seed(0)
    norm = nn.BatchNorm2d(70).eval()
    norm.running_mean.normal_()  # type: ignore[union-attr]
    weight = torch.randn(40, 70, 3, 3)
    modules = {
        "packed": (PackedBinaryConv2d.from_weight(weight, torch.rand(40), torch.randn(40), padding=1, norm=norm), 0.0),
        "dendritic": (DendriticConv2d(70, 40, 3, padding=1, bias_init=0.3), 1e-5),
    }
    x, wrong = torch.randn(3, 70, 9, 8), []
    for name, (module, tolerance) in modules.items():
        with torch.no_grad():
            expected = module(x)
            placed = module.to(device)
            ways = {"eager": placed} if device == "cpu" else {"eager": placed, "compiled": torch.compile(placed)}
            for way, run in ways.items():
                error = (run(x.to(device)).cpu() - expected).abs().max().item() / expected.abs().max().item()
                if not error <= tolerance:
                    wrong.append({"module": name, "way": way, "error": error})
    return {"checked": len(modules), "wrong": wrong, "wrong_count": len(wrong)}


def time_dendritic(device: str) -> dict[str, Any]:
    """A training step (forward and backward) of each form: microseconds, and bytes at the peak beyond those before."""
    from triton.testing import do_bench

    from convswap.ops.dendritic import chunked, dendritic_conv2d_reference
    from convswap.ops.dendritic import triton_kernels as tk

    where, needs = ((1, 1), (1, 1, 1, 1), (1, 1), 1), (True, True, True)
    rows = []
    for batch, channels, side in ((64, 64, 32), (128, 16, 32), (128, 64, 8), (16, 256, 14)):
        torch.manual_seed(0)
        x, weight = (torch.randn(s, device=device) for s in ((batch, channels, side, side), (channels, channels, 3, 3)))
        given = x, weight, torch.randn(channels, channels, device=device)
        gradient = torch.randn_like(x)

        def fused(given: Any = given, g: Tensor = gradient) -> Any:
            y = tk.dendritic_forward_cuda(*given, None, *where)
            return y, tk.dendritic_backward_cuda(g, *given, *where, needs)

        def plain(given: Any = given, g: Tensor = gradient) -> Any:
            with torch.no_grad():
                return chunked.forward(*given, None, *where), chunked.backward(g, *given, *where, needs)

        def naive(given: Any = given, g: Tensor = gradient) -> Any:
            leaves = [t.detach().requires_grad_() for t in given]
            y = dendritic_conv2d_reference(*leaves, None, *where)
            return y.detach(), torch.autograd.grad(y, leaves, g)

        row: dict[str, Any] = {"batch": batch, "channels": channels, "side": side}
        values = {}
        for name, run in (("triton", fused), ("chunked", plain), ("grouped", naive)):
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            values[name] = run()
            torch.cuda.synchronize()
            row[name] = {"bytes": torch.cuda.max_memory_allocated() - before}
            row[name]["us"] = 1000 * do_bench(run, warmup=25, rep=200, return_mode="median")
        truth = values["grouped"]
        row["error"] = max(
            ((one - other).abs().max() / other.abs().max()).item()
            for one, other in zip((values["triton"][0], *values["triton"][1]), (truth[0], *truth[1]), strict=True)
        )
        row["times_faster"], row["times_less_memory"] = (
            row["grouped"][key] / row["triton"][key] for key in ("us", "bytes")
        )
        rows.append(row)
    return {"ok": all(row["error"] < 1e-3 for row in rows), "rows": rows}


def time_fused(device: str, quick: bool) -> dict[str, Any]:
    """Latency of networks in eval mode, before and after `fuse`, in milliseconds; and whether they agree."""
    import convswap
    from convswap.models import create_model

    rows = []
    for unit in ("circle",) if quick else ("conv", "circle", "ic", "xnor"):
        torch.manual_seed(0)
        model = create_model("cifar_resnet20", num_classes=10).to(device)
        x = torch.randn(1 if quick else 128, 3, 32, 32, device=device)
        model = convswap.swap(model, unit, example_input=x, start="fresh").eval() if unit != "conv" else model.eval()
        fused = convswap.fuse(model).eval()
        with torch.no_grad():
            apart = (model(x) - fused(x)).abs().max().item()
            before, after = (_milliseconds(lambda m=m, x=x: m(x), device, 2 if quick else 30) for m in (model, fused))
        rows.append({"unit": unit, "before_ms": before, "after_ms": after, "difference": apart})
    return {"ok": True, "rows": rows}


def _milliseconds(run: Callable[[], Any], device: str, repeats: int) -> float:
    wait = torch.cuda.synchronize if device != "cpu" else lambda: None
    found = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        run()
        wait()
        found.append(1000 * (time.perf_counter() - start))
    return statistics.median(found)
