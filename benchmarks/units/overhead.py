"""What does a unit cost? As a layer and as a block, and in whole networks.

Tables:
- `layers`: every registered unit that stands for a convolution, in five shapes, against `nn.Conv2d` of that shape;
- `blocks`: every unit that stands for a block or a stage, against the residual blocks of cifar_resnet it replaces;
- `networks`: circle and ic (or `--units`) in their default places in cifar_resnet20 (32 px) and resnet18 (224 px).

Layers and blocks give for each unit a training step (forward and backward), inference, inference after fusing, and the
peak of memory. These are ratios to the replaced module, to the straightforward form of the unit
(`benchmarks/peers/straightforward.py`) and to the same block of timm if there is one. All take turns in one process,
with the unit itself once more to show the noise. Goal: at most 1.0 of either peer. Correctness first, in float64: a
module that is not proven equal gets no figure. In networks the goals are, for circle, 1.05 in training and the plain
network's time once fused, and for ic 1.25 and 1.10.

    python -m benchmarks.units.overhead [--tables layers,blocks,networks] [--units circle,ic] [--device auto]
        [--precision auto] [--threads 1] [--seconds 0.7] [--repeats 15] [--compile] [--quick]

`--quick` runs tiny shapes and writes nothing. It shows whether all works. `--compile` is for networks only.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

import convswap
from benchmarks.common import write_result
from benchmarks.units.layers import TOLERANCE, Settings, cases_for, measure
from benchmarks.units.networks import GOALS, HOSTS, measure_host
from convswap.train.precision import resolve_device, resolve_precision
from convswap.units import UnitSpec

TABLES = ("layers", "blocks", "networks")
NOISE = 1.03  # a unit is called slower beyond this and beyond its difference from itself in the same turns


def specs(table: str, asked: list[str] | None) -> list[UnitSpec]:
    """The units of a table, without the plain convolution; all of them if none are asked for."""
    names = [name for name in convswap.list_units() if name != "conv" and (asked is None or name in asked)]
    found = [convswap.get_unit(name) for name in names]
    return [spec for spec in found if (spec.replaces == "convolution") == (table == "layers")]


def verdict(row: dict[str, Any], kind: str) -> str:
    """One line's figures: the ratio to the replaced module, then to each peer; `SLOWER` if the quartiles say so."""
    if kind not in row:
        return "no figure: the fused form is not equal"
    cells = [f"{row[kind]['to_plain']['ratio']:7.3f} of plain"]
    for peer in ("straightforward", "library"):
        found = row[kind].get(f"to_{peer}")
        if found is not None:
            slower = found["q1"] > max(NOISE, row[kind]["to_again"]["q3"])
            cells.append(f"{found['ratio']:6.3f} of {peer}{' SLOWER' if slower else ''}")
    memory = row[kind].get("memory", {})
    cells += [f"memory {memory['to_plain']:.2f} of plain"] if "to_plain" in memory else []
    return ", ".join(cells)


def measure_table(table: str, asked: list[str] | None, settings: Settings, quick: bool) -> list[dict[str, Any]]:
    """Every unit in every place it supports, printed as it comes. A unit without a place is a row that says so."""
    rows: list[dict[str, Any]] = []
    for spec in specs(table, asked):
        reasons = []
        for case in cases_for(spec, quick):
            if (reason := case.refused(spec)) is not None:
                reasons.append(f"{case.name}: {reason}")
                continue
            row = measure(spec, case, settings)
            rows.append(row)
            for kind in ("training", "inference", "fused"):
                print(f"{spec.name:18} {case.name:38} {kind:9} {verdict(row, kind)}", flush=True)
            for name in row["red"]:
                print(f"{spec.name:18} {case.name:38} NOT EQUAL to {name}: {row['differences'][name]:.1e}", flush=True)
        if len(reasons) == len(cases_for(spec, quick)):
            rows.append({"unit": spec.name, "refused": reasons})
            print(f"{spec.name:18} {'; '.join(reasons)}", flush=True)
    return rows


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default="layers,blocks")
    parser.add_argument("--units", default=None, help="names, by comma; all that are registered")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.7, help="for each figure of layers and blocks")
    parser.add_argument("--repeats", type=int, default=15, help="of networks")
    parser.add_argument("--hosts", default=",".join(HOSTS))
    parser.add_argument("--name", default=None, help="of the result file of layers and blocks, without its folder")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    if wrong := set(options.tables.split(",")) - set(TABLES):
        parser.error(f"--tables: unknown {', '.join(sorted(wrong))}; choose from {', '.join(TABLES)}")
    if options.quick and "networks" in options.tables.split(","):
        parser.error("--quick is for the tables layers and blocks")
    return options


def main(arguments: list[str] | None = None) -> dict[str, list[dict[str, Any]]]:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    asked = None if options.units is None else options.units.split(",")
    for name in asked or ():
        convswap.get_unit(name)  # raises, with the nearest name
    chosen, found = options.tables.split(","), {}
    seconds = 0.0 if options.quick else options.seconds
    settings = Settings(device, precision, seconds)
    for table in ("layers", "blocks"):
        if table in chosen:
            found[table] = measure_table(table, asked, settings, options.quick)
    suffix = "" if options.precision == "auto" else f"_{precision}"
    payload = {"precision": precision, "threads": options.threads}
    if found and not options.quick:
        place = "" if device.type == "cpu" else f"_{device.type}"
        details = {"device": str(device), "seconds": seconds, "tolerance": TOLERANCE}
        name = options.name or f"unit_overhead_layers{place}{suffix}"
        write_result(f"units/{name}", payload | details | {"results": found})
    if "networks" in chosen:
        units = asked or list(GOALS)
        results = {
            name: measure_host(name, units, options.repeats, precision, options.compile)
            for name in options.hosts.split(",")
        }
        name = f"units/unit_overhead{'_compiled' if options.compile else ''}{suffix}"
        write_result(name, payload | {"compiled": options.compile, "goals": GOALS, "results": results})
    return found


if __name__ == "__main__":
    main()
