"""How long does `convswap see` take, from the command to the page, and how large is the page?

Goal: less than 60 s on two cores for each of three networks: a trained ResNet-20 on CIFAR-10, and MobileNetV3-small
and EfficientNet-B0 of timm at 224 x 224 with random weights. Each runs in a fresh process, imports and drawing
included. The files of the libraries are read once before.

    python -m benchmarks.tools.see_speed --weights resnet20.th --data-root DATA [--repeats 3]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import write_result

LIMIT_S = 60.0


def commands(weights: str, data_root: str) -> dict[str, list[str]]:
    """The arguments of `convswap see` for each network."""
    trained = ["--weights", str(Path(weights).resolve()), "--data", "cifar10"]
    return {
        "cifar_resnet20": ["cifar_resnet20", *trained, "--data-root", str(Path(data_root).resolve())],
        "mobilenetv3_small_100": ["mobilenetv3_small_100"],
        "efficientnet_b0": ["efficientnet_b0"],
    }


def measure(arguments: list[str]) -> tuple[float, float, int]:
    """Seconds by the clock, seconds of processors, and the page's bytes."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "see.html"
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-m", "convswap", "see", *arguments, "--out", str(page)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        elapsed, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return elapsed, used, page.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="state dict of a CIFAR-10 ResNet-20")
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    subprocess.run([sys.executable, "-c", "import convswap.see, timm, sklearn.datasets, matplotlib.figure"], check=True)
    rows: list[dict[str, Any]] = []
    for name, arguments in commands(options.weights, options.data_root).items():
        runs = [measure(arguments) for _ in range(options.repeats)]
        seconds = [run[0] for run in runs]
        rows.append(
            {
                "network": name,
                "median_s": statistics.median(seconds),
                "seconds": seconds,
                "processor_s": [run[1] for run in runs],
                "page_bytes": runs[-1][2],
            }
        )
        print(f"{name:24} {rows[-1]['median_s']:6.1f} s  {runs[-1][2] / 1e6:.1f} MB", flush=True)
    over = [row["network"] for row in rows if row["median_s"] >= LIMIT_S]
    print(f"over {LIMIT_S:g} s: {', '.join(over) or 'none'}")
    environment = {name: value for name in ("OMP_NUM_THREADS",) if (value := os.environ.get(name))}
    write_result("tools/see_speed", {"limit_s": LIMIT_S, "over_limit": over, "environment": environment, "rows": rows})


if __name__ == "__main__":
    main()
