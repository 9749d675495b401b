"""What can one core of this machine do at best? Peaks for the kernels of ops, each beside float32.

    python -m benchmarks.kernels.roofline [--milliseconds 300] [--rounds 5]

Other benchmarks print `line()` beside their figures and put `peaks()` into their results.
"""

from __future__ import annotations

import argparse
from functools import cache

from benchmarks.kernels.probes import PROBES, describe
from benchmarks.kernels.probes import peaks as measure
from convswap.ops import native


@cache
def peaks() -> dict[str, float]:
    """Multiply-accumulates per second of one core by fma, popcount, vnni and amx (those it has); measured once."""
    return _best(milliseconds=30, rounds=3)


def line() -> str:
    """The peaks in one readable line."""
    return describe(peaks())


def share(kind: str, operations: float, seconds: float, threads: int = 1) -> str:
    """How near a kernel came: `share("popcount", macs, seconds)` gives e.g. `87 % of the popcount peak`."""
    peak = peaks().get(kind)
    if not peak:
        return f"no {kind} peak on this machine"
    return f"{operations / seconds / (peak * threads):.0%} of the {kind} peak"


def _best(milliseconds: int, rounds: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for _ in range(rounds):
        for name, value in measure(milliseconds).items():
            found[name] = max(value, found.get(name, 0.0))
    return found


def main() -> None:
    from benchmarks.common import write_result

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--milliseconds", type=int, default=300, help="of each probe in each round")
    parser.add_argument("--rounds", type=int, default=5, help="the best round counts")
    given = parser.parse_args()
    if native.library() is None:
        raise SystemExit(f"no native library: {native.why_missing()}")
    found = _best(given.milliseconds, given.rounds)
    for name, value in found.items():
        factor = value / found["fma"] if "fma" in found else float("nan")
        print(f"{name:<9} {value / 1e9:8.1f} G/s  {factor:5.1f}x fma  ({PROBES[name]})")
    write_result("kernels/roofline", {"macs_per_second_of_one_core": found, "features": sorted(native.cpu_features())})


if __name__ == "__main__":
    main()
