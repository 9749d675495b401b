"""Larq Compute Engine, the best-known engine for binary networks, on one layer beside ours (when it is installed).

    pip install larq-compute-engine tensorflow-cpu tf_keras larq      (in an environment of its own; Python 3.11)
    TF_USE_LEGACY_KERAS=1 python -m benchmarks.kernels.larq_peer [--threads 1] [--shape 256@14] [--repetitions 200]

A caveat belongs beside every figure: Larq is made for ARM. On x86 it runs its reference kernels, which its manual
calls "not optimized for speed in any way". A fair comparison needs a 64-bit ARM machine. The layer is a 3x3 convolution
of signs (pad value +1, as Larq's fast kernels require; ours pads with exact zeros), without an epilogue, from bits.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.common import write_result
from benchmarks.kernels.binary_conv import SHAPES, Layer, forced
from convswap.ops.binary_conv.native_calls import path_names

CAVEAT = "on x86 Larq runs reference kernels not meant to be fast; a fair comparison needs 64-bit ARM"


def larq_step(channels: int, size: int, threads: int, indirect: bool) -> Callable[[], object]:
    """One call of Larq's interpreter on a converted layer.

    Raises:
        ImportError: Larq or TensorFlow is not installed.
    """
    import larq
    import larq_compute_engine as lce
    import numpy as np
    import tensorflow as tf

    given = tf.keras.Input((size, size, channels))
    sign = larq.quantizers.SteSign()
    conv = larq.layers.QuantConv2D(channels, 3, padding="same", pad_values=1.0, input_quantizer=sign,
                                   kernel_quantizer=sign, use_bias=False)  # fmt: skip
    model = lce.convert_keras_model(tf.keras.Model(given, conv(given)))
    interpreter = lce.testing.Interpreter(model, num_threads=threads, use_indirect_bgemm=indirect)
    x = np.where(np.random.default_rng(0).random((1, size, size, channels)) < 0.5, -1, 1).astype(np.float32)
    return lambda: interpreter.predict(x)


def main() -> int:
    """Measure, print, write; status 2 if Larq is not installed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=SHAPES, default="256@14")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    layer = Layer(given.shape, 1)
    steps: dict[str, tuple[str | None, Callable[[], Any]]] = {}
    try:
        for name, indirect in (("larq", False), ("larq, indirect", True)):
            steps[name] = (None, larq_step(*SHAPES[given.shape], given.threads, indirect))
    except ImportError as error:
        print(f"Larq is not installed here ({error}); see the head of this file", file=sys.stderr)
        return 2
    steps["fp32 (oneDNN)"] = (None, layer.onednn(torch.float32))
    for path in path_names():
        steps[path] = (path, layer.ours(path, packing=True, once=False))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    with torch.inference_mode():
        for name, (path, step) in steps.items():
            if path is not None:
                with forced(path):
                    if not torch.equal(step(), layer.reference):
                        print(f"RED: {name} differs from the reference")
                        return 1
        for number in range(given.repetitions + 3):
            for name, (path, step) in steps.items():
                with forced(path):
                    start = time.perf_counter()
                    step()
                    if number > 2:
                        seconds[name].append(time.perf_counter() - start)
    base = min(seconds["fp32 (oneDNN)"])
    print(f"{given.shape}, batch 1, {given.threads} thread(s); {CAVEAT}")
    rows = {}
    for name, times in seconds.items():
        least, median = min(times) * 1e6, statistics.median(times) * 1e6
        rows[name] = {"least_us": least, "median_us": median, "times_fp32": base * 1e6 / least}
        print(f"  {name:20} {least:9.1f} us (median {median:9.1f})  {rows[name]['times_fp32']:5.1f}x fp32")
    write_result("kernels/larq_peer", {"caveat": CAVEAT, "shape": given.shape, "threads": given.threads, "rows": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
