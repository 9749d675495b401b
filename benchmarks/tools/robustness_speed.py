"""How long does it take to corrupt the 10,000 test images of CIFAR-10, one corruption at one severity?

Goal: less than 10 s on two cores for all corruptions except the slowest two. Real images come in batches of 500. For
each corruption the slowest severity counts. A first batch of each is not timed.

    python -m benchmarks.tools.robustness_speed --data-root DATA [--images 10000] [--severities 1 3 5]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from benchmarks.common import write_result
from convswap.data import load_data
from convswap.measure.robustness import COMMON, HELD_OUT, Perturbation, Sample, corruption, sample_of

BATCH, LIMIT_S = 500, 10.0


def seconds(variant: Perturbation, sample: Sample) -> float:
    variant(sample.images[:16])
    start = time.perf_counter()
    for first in range(0, len(sample), BATCH):
        part = sample.images[first : first + BATCH]
        variant(part, indices=range(first, first + len(part)))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--severities", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    options = parser.parse_args()
    sample = sample_of(load_data("cifar10", root=options.data_root, download=False), options.images)
    rows: list[dict[str, Any]] = []
    for name in COMMON + HELD_OUT:
        each = {str(severity): seconds(corruption(name, severity), sample) for severity in options.severities}
        rows.append({"corruption": name, "slowest_s": max(each.values()), "seconds_by_severity": each})
        print(f"{name:18} {rows[-1]['slowest_s']:6.2f} s", flush=True)
    scale = 10_000 / len(sample)
    over = [row["corruption"] for row in rows if row["slowest_s"] * scale >= LIMIT_S]
    print(f"over {LIMIT_S:g} s per 10,000 images: {', '.join(over) or 'none'} (two may be)")
    write_result(
        "tools/robustness_speed", {"images": len(sample), "limit_s": LIMIT_S, "over_limit": over, "rows": rows}
    )


if __name__ == "__main__":
    main()
