"""What the committed measurements say about a unit, read from `benchmarks/results`."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from .cards import table


def measured(results: Path, units: list[str], page: Path) -> dict[str, str]:
    """Markdown about every unit that the records speak of; links lead from `page` to the files read.

    Args:
        results: the folder `benchmarks/results`.
        units: names to look for.
        page: a file in the folder of the pages that the text goes to.
    """
    sections: dict[str, list[str]] = defaultdict(list)
    for part in (layer_costs(results), network_costs(results), comparisons(results), other_files(results)):
        for unit, (text, sources) in part.items():
            links = ", ".join(f"[{_short(file, results)}]({_link(file, page)})" for file in sources)
            sections[unit].append(f"{text.rstrip()}\n\nSource: {links}")
    return {unit: "\n\n".join(sections[unit]) for unit in units if unit in sections}


Found = dict[str, tuple[str, list[Path]]]


def layer_costs(results: Path) -> Found:
    """Time of a unit by what it replaces, as a layer or block: training step, inference, fused."""
    file = results / "units" / "unit_overhead_layers.json"
    record = _read(file)
    rows: dict[str, list[list[str]]] = defaultdict(list)
    for row in [*record["results"]["layers"], *record["results"]["blocks"]]:
        cells = [_times(row[mode] and row[mode]["to_plain"]) for mode in ("training", "inference", "fused")]
        rows[row["unit"]].append([row["place"], *cells])
    text = f"Time against the plain module in its place, {_setting(record)}."
    head = ["place", "training step", "inference", "fused"]
    return {unit: (f"{text}\n\n{table([head, *found], 'lrrr')}", [file]) for unit, found in rows.items()}


def network_costs(results: Path) -> Found:
    """Time of whole networks with the unit by that of the plain network."""
    file = results / "units" / "unit_overhead.json"
    record = _read(file)
    rows: dict[str, list[list[str]]] = defaultdict(list)
    for network, found in record["results"].items():
        for unit, training in found["training"].items():
            fused = [f"{_times(batch[unit])} at {size}" for size, batch in found["fused"].items() if unit in batch]
            rows[unit].append([network, _times(training), ", ".join(fused)])
    text = f"Time of whole networks against the plain network, {_setting(record)}."
    head = ["network", "training step", "fused"]
    del rows["conv"]  # by definition 1
    return {unit: (f"{text}\n\n{table([head, *found], 'lrl')}", [file]) for unit, found in rows.items()}


def comparisons(results: Path) -> Found:
    """Test accuracy, parameters and multiply-adds of every committed comparison with a trial of the unit."""
    rows: dict[str, list[list[str]]] = defaultdict(list)
    sources: dict[str, list[Path]] = defaultdict(list)
    for report in sorted((results / "comparisons").glob("*/report.html")):
        for (unit, model, data, epochs), runs in sorted(_trials(report.parent / "trials").items()):
            accuracy = [run["test_accuracy"] for run in runs]
            spread = f" ({min(accuracy):.2%} to {max(accuracy):.2%})" if len(runs) > 1 else ""
            size = [f"{runs[0]['parameters']:,}", f"{runs[0]['macs'] / 1e6:,.1f} M"]
            rows[unit].append([model, data, str(epochs), str(len(runs)), f"{fmean(accuracy):.2%}{spread}", *size])
            if report not in sources[unit]:
                sources[unit].append(report)
    text = "Trained under one recipe with the other units of its comparison. One seed does not show which unit is best."
    head = ["network", "data", "epochs", "seeds", "test accuracy", "parameters", "multiply-adds"]
    return {unit: (f"{text}\n\n{table([head, *found], 'llrrlrr')}", sources[unit]) for unit, found in rows.items()}


def _trials(folder: Path) -> dict[tuple[str, str, str, int], list[dict[str, Any]]]:
    runs = defaultdict(list)
    for trial in sorted(folder.glob("*/trial.json")):
        asked = _read(trial)
        key = (asked["unit"], asked["model"], asked["data"], asked["recipe"]["epochs"])
        runs[key].append(_read(trial.with_name("result.json")))
    return runs


def other_files(results: Path) -> Found:
    """Records that have a part under the unit's own name, such as the speeds of the frequency units."""
    files: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(results.glob("*/*.json")):
        record = _read(file)
        for name in record if isinstance(record, dict) else ():
            files[name].append(file)
    return {unit: ("More is measured in a record of its own.", found) for unit, found in files.items()}


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _times(ratio: dict[str, float] | None) -> str:
    return "" if ratio is None else f"{ratio['ratio']:.2f}x"


def _setting(record: dict[str, Any]) -> str:
    """The machine in short, as the record has it."""
    threads = f"{record['threads']} thread{'s' if record['threads'] > 1 else ''}"
    return f"{record['precision']}, {threads}, {record['machine']['cpu']}, {record['date'][:10]}"


def _short(file: Path, results: Path) -> str:
    return file.relative_to(results).as_posix()


def _link(file: Path, page: Path) -> str:
    return os.path.relpath(file, page.parent).replace(os.sep, "/")
