"""How fast is the packed binary convolution on a GPU, and does `triton_kernel.choose` choose the fastest form?

The four ResNet stage shapes, 3x3, at several batches: every form of the Triton kernel, packing, and the same
convolution by cuDNN in float32 (with and without TF32), float16 and bfloat16, channels last. Correctness first: every
form must equal the float convolution of the signs exactly. A form that does not gets no time. Times are medians of
`triton.testing.do_bench`, in microseconds. Each is given with its rate in 10^12 binary products a second and the error
of the chooser's estimate. Not yet run on a GPU.

    python -m benchmarks.kernels.binary_conv_gpu [--batches 1 16 128] [--device cuda]

`--device cpu` interprets the kernels on tiny shapes, times nothing and writes nothing. It shows whether all works.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import write_result

SHAPES = {"64 at 56": (64, 56), "128 at 28": (128, 28), "256 at 14": (256, 14), "512 at 7": (512, 7)}
TINY = {"64 at 3": (64, 3), "128 at 4": (128, 4)}
CLOCK = 1.755e9  # cycles a second of an H100 or H200, boosted: turns the chooser's cycles into time


def microseconds(run: Callable[[], Any]) -> float:
    from triton.testing import do_bench

    return 1000 * do_bench(run, warmup=25, rep=100, return_mode="median")


def peers(signs: Tensor, weight: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Convolutions of the same shape in floating point, on their own copies."""
    found: dict[str, Callable[[], Tensor]] = {}
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("float32, TF32 allowed", torch.float32, True),
        ("float16", torch.float16, False),
        ("bfloat16", torch.bfloat16, False),
    ):
        x, w = (t.to(dtype).contiguous(memory_format=torch.channels_last) for t in (signs, weight))

        def run(x: Tensor = x, w: Tensor = w, tf32: bool = tf32) -> Tensor:
            with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=tf32):
                return F.conv2d(x, w, None, 1, 1)

        found[name] = run
    return found


def measure(name: str, channels: int, side: int, batch: int, device: str) -> dict[str, Any]:
    """One shape and batch: equality, then times."""
    from convswap.ops.binary_conv import pack_weight, triton_kernel

    torch.manual_seed(0)
    x = torch.randn(batch, channels, side, side, device=device).contiguous(memory_format=torch.channels_last)
    w = torch.randn(channels, channels, 3, 3)
    signs, weight = torch.where(x >= 0, 1.0, -1.0), torch.where(w >= 0, 1.0, -1.0).to(device)
    bits, scale = pack_weight(w).to(device), torch.rand(channels, device=device)
    geometry = channels, channels, (1, 1), (1, 1, 1, 1), (1, 1), 1
    dots = F.conv2d(signs.double(), weight.double(), None, 1, 1)  # exact
    expected = dots.float() * scale[:, None, None]
    words = triton_kernel.pack(x, None, None, 1)
    limit, flip = (torch.zeros(channels, dtype=t, device=device) for t in (torch.int32, torch.bool))
    case = batch * side * side, channels, channels, 9, 1
    chosen, products = triton_kernel.choose(*case), batch * side * side * channels * channels * 9
    row: dict[str, Any] = {"shape": name, "batch": batch, "chosen": list(chosen), "forms": [], "peers": {}}
    for form in triton_kernel.FORMS:
        if 2 * -(-channels // 64) % form.step:
            continue

        def run(form: Any = form) -> Tensor:
            return triton_kernel.conv2d(words, bits, scale, None, None, *geometry, False, form)

        signed = triton_kernel.conv2d_sign(words, bits, limit, flip, *geometry, form)
        equal = torch.equal(run(), expected)
        equal &= torch.equal(signed, triton_kernel.pack(dots, None, None, 1))
        entry: dict[str, Any] = {"form": list(form), "equal": equal}
        if equal and device != "cpu":
            entry["us"] = microseconds(run)
            entry["tera_products"] = products / entry["us"] / 1e6
            entry["estimate_us"] = triton_kernel.estimate(form, *case) / CLOCK * 1e6
        row["forms"].append(entry)
        verdict = f"{entry['us']:9.1f} us" if "us" in entry else "equal" if equal else "NOT EQUAL"
        shape = f"{form.pixels:3}x{form.outputs:<3}x{form.step}"
        print(f"{name:10} batch {batch:4} {form.name:9} {shape} {verdict}", flush=True)
    if device == "cpu":
        return row
    row["pack_us"] = microseconds(lambda: triton_kernel.pack(x, None, None, 1))
    for peer, run in peers(signs, weight).items():
        row["peers"][peer] = microseconds(run)
        print(f"{name:10} batch {batch:4} {peer:24} {row['peers'][peer]:9.1f} us", flush=True)
    timed = [entry for entry in row["forms"] if "us" in entry]
    if timed:
        best = min(timed, key=lambda entry: entry["us"])
        mine = next((entry for entry in timed if entry["form"] == row["chosen"]), None)
        row["best"] = best["form"]
        row["chosen_to_best"] = mine["us"] / best["us"] if mine else None
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 128])
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    dry = arguments.device == "cpu"
    if dry:
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, by the first kernel
    rows = [
        measure(name, *shape, batch, arguments.device)
        for name, shape in (TINY if dry else SHAPES).items()
        for batch in ([1] if dry else arguments.batches)
    ]
    red = [(row["shape"], entry["form"]) for row in rows for entry in row["forms"] if not entry["equal"]]
    if not dry:
        write_result("kernels/binary_conv_gpu", {"rows": rows, "not_equal": red})
    if red:
        sys.exit(f"not equal: {red}")


if __name__ == "__main__":
    main()
