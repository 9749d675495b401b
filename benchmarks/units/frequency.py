"""The units that leave the spatial grid, each against its straightforward form: one run over all sections.

A section is a module `frequency_<system>.py` beside this one, with `run(options) -> dict`. Its documentation says what
it measures and what its goals are.

    python -m benchmarks.units.frequency [--sections niff,harmonic,pide] [--threads 1] [--seconds 1] [--device cpu]
        [--quick]

A run over all sections writes `results/units/frequency_units.json`, and a run over some of them
`frequency_<sections>.json`. `--quick` takes small shapes and writes nothing. It shows whether all works.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks.common import write_result

SECTIONS = ("niff", "harmonic", "pide")


def sections(text: str) -> list[str]:
    """The sections of a list separated by commas."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(f"unknown section {name!r}; choose from {', '.join(SECTIONS)}")
        if not (Path(__file__).parent / f"frequency_{name}.py").exists():
            raise argparse.ArgumentTypeError(f"section {name!r} has no frequency_{name}.py")
    return names


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """The command line. Returns the results by section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=sections, default=",".join(SECTIONS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each cell of a table")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {}
    for name in options.sections:
        start = perf_counter()
        found[name] = import_module(f"benchmarks.units.frequency_{name}").run(options)
        found[name]["seconds"] = perf_counter() - start
        print(f"{name}: {found[name]['seconds']:.0f} s", flush=True)
    if not options.quick:
        place = "" if options.device == "cpu" else f"_{torch.device(options.device).type}"
        which = "units" if set(options.sections) == set(SECTIONS) else "_".join(options.sections)
        write_result(f"units/frequency_{which}{place}", {"threads": options.threads, "device": options.device} | found)
    return found


if __name__ == "__main__":
    main()
