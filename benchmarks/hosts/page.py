"""`python -m benchmarks.hosts.page` makes `docs/hosts/matrix.md` of `benchmarks/results/hosts/matrix.json`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT

COLUMNS = ("plan", "swap", "fuse", "train", "state", "export")
STATES = ("ok", "refused", "not applicable", "failed", "blind", "wrong")
PAGE = ROOT / "docs" / "hosts" / "matrix.md"

OPENING = """# Foreign networks, one by one

This page shows what swap, fuse, training, state and export do to {networks} networks of {packages} foreign packages.

`python -m benchmarks.hosts.matrix` makes the page and [its record](../../benchmarks/results/hosts/matrix.json).
[`table.py`](../../benchmarks/hosts/table.py) says how each network is built. All weights are random, and so are the
BatchNorm statistics. Nothing here is about accuracy.

Each number is the largest difference over the largest value of the network's own output, in float64, on three inputs.
The script compares with the outputs before the surgery, and shares no code with convswap's own proofs. A number above
1e-9 (1e-4 in float32) is marked **wrong**, unless rounding explains it: the last digit of each parameter changes the
network's output by a third of the number or more.

- **plan**: convolutions that `ic` would replace under `where="all"`, of all in the network. The plan names a reason for
  each of the others.
- **swap**: the difference after an exact start of `ic` at its default places.
- **fuse**: the largest difference after fusing the network itself, with trained `ic`, and with trained `ghost`. Behind
  it, BatchNorms folded in the network itself, of all.
- **train**: units that got a gradient in a training step, of those of `ic` and `ghost` together. A unit whose
  convolution gets none in the given network may go without.
- **state**: the difference between a trained network and one built anew that loads its state strictly.
- **export**: the difference between the fused network and its `torch.export`.

"""


def cell_text(record: dict[str, Any], column: str, notes: list[str]) -> str:
    """One cell. A cell without a number leads to a note."""
    cell = record[column]
    if cell["state"] == "ok":
        number = f"{cell['difference']:.0e}" if "difference" in cell else ""
        if column == "plan":
            return f"{cell['replaced']} of {cell['convolutions']}"
        if column == "train":
            return f"{cell['moved']} of {cell['units']}"
        return f"{number}, {cell['folded']} of {record['norms']}" if column == "fuse" else number
    said = cell.get("reason") or (f"off by {cell['difference']}" if "difference" in cell else json.dumps(cell))
    note = f"{column} {cell['state']}: {said}"
    if note not in notes:
        notes.append(note)
    mark = "**wrong**" if cell["state"] == "wrong" else cell["state"]
    return f"{mark} ({notes.index(note) + 1})"


def page_text(result: dict[str, Any]) -> str:
    """The whole page."""
    rows = [row for row in result["rows"] if "broken" not in row]
    packages = list(dict.fromkeys(row["package"] for row in rows))
    parts = [OPENING.format(networks=len(rows), packages=len(packages)), "## In one table\n\n"]
    parts.append("| | " + " | ".join(STATES) + " |\n|---|" + "---:|" * len(STATES) + "\n")
    for column in COLUMNS:
        counts = Counter(row[column]["state"] for row in rows)
        parts.append(f"| {column} | " + " | ".join(str(counts[state]) for state in STATES) + " |\n")
    for package in packages:
        notes: list[str] = []
        parts.append(f"\n## {package} {result['versions'][package]}\n\n")
        parts.append("| network | " + " | ".join(COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS) + "\n")
        for row in rows:
            if row["package"] == package:
                name = row["name"] + ("" if row["precision"] == "float64" else f" ({row['precision']})")
                cells = [cell_text(row, column, notes) for column in COLUMNS]
                parts.append(f"| {name} | " + " | ".join(cells) + " |\n")
        parts += ["\n", *(f"{number}. {escaped(note)}\n" for number, note in enumerate(notes, 1))] if notes else []
    broken = [row for row in result["rows"] if "broken" in row]
    if broken or result["missing"]:
        parts.append("\n## Not examined\n\n")
        parts += [f"- {name}: in the table, and not run yet\n" for name in result["missing"]]
        parts += [f"- {row['package']} {row['name']}: {escaped(row['broken'])}\n" for row in broken]
    return "".join(parts)


def escaped(text: str) -> str:
    """Text of an error as one line of code, so that its signs mean nothing to Markdown."""
    return "`" + " ".join(text.replace("`", "'").split()) + "`"


def write_page(result: dict[str, Any]) -> Path:
    """Write the page and print its place."""
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page_text(result), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return PAGE


if __name__ == "__main__":
    write_page(json.loads((RESULTS / "hosts" / "matrix.json").read_text(encoding="utf-8")))
