"""The page docs/claims.md, written from results/claims/claims.json.

python -m benchmarks.claims.page    # writes the page again, measures nothing
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.claims.stated import CLAIMS, Claim
from benchmarks.claims.tables import DETAILS, name_of, paragraph, table
from benchmarks.common import RESULTS, ROOT

HEAD = """# Claims of the papers, tested

This page says which claims of the papers hold in our measurements: claims on kernels, JPEG and shifts.

[benchmarks/claims/__main__.py](../benchmarks/claims/__main__.py) writes the page. Every number is in
[results/claims/claims.json](../benchmarks/results/claims/claims.json), with the commit and the machine.

**How a verdict is made.** Each claim is a statement "this number is above (below) a bound". It was written down with
its bound in [stated.py](../benchmarks/claims/stated.py) and committed before the first result.

- The number of a given network has a bootstrap interval over its kernels (95 %) or, where layers are compared, a
  permutation test over layers (5 %).
- The number of networks trained here has Student's 95 % interval over training seeds, of differences paired by seed
  where two networks are compared.

The claim **holds** if the interval lies wholly on the claimed side of the bound, **does not hold** if it lies wholly on
the other, and is **not decided** otherwise. One seed, or equal numbers from all seeds, give no interval and decide
nothing. Several networks decide a claim only if they agree. There is no correction for the number of claims.

Two things were not blind. An earlier [run](../benchmarks/results/studies/niff_kernels.json) had shown that frequency
filters are local before and after training. The claims on the energy of the centre tap were added after a first look,
because at 3x3 the class `identity` is hard to tell from a narrow Gaussian.

**What the verdicts are about.** We did not have the full papers. Claims are paraphrased from abstracts, figure
captions, and the authors' code and records. The meaning of "many" and "most" is ours. The networks [trained
here](#the-networks-trained-here) are small and trained briefly. A verdict is about them and the pretrained networks
named, not about the papers' own.
"""


def write_page(result: Path, page: Path) -> None:
    """Write the page."""
    found = json.loads(result.read_text(encoding="utf-8"))
    parts = [HEAD, _summary(found), *(_topic(topic, found) for topic in _topics(found)), _trained(found)]
    page.write_text("\n".join(part.rstrip() + "\n" for part in parts), encoding="utf-8")
    print(f"wrote {page.relative_to(page.parent.parent)}")


def _topics(found: dict[str, Any]) -> list[str]:
    present = {row["claim"] for row in found["claims"]}
    return list(dict.fromkeys(claim.topic for claim in CLAIMS if claim.key in present))


def _rows(found: dict[str, Any], topic: str) -> list[tuple[Claim, dict[str, Any]]]:
    rows = {row["claim"]: row for row in found["claims"]}
    return [(claim, rows[claim.key]) for claim in CLAIMS if claim.topic == topic and claim.key in rows]


def _summary(found: dict[str, Any]) -> str:
    rows = []
    for topic in _topics(found):
        for claim, row in _rows(found, topic):
            several = len(row["networks"]) > 1
            values = "<br>".join(
                (f"{name_of(name)}: " if several else "") + _short(number, claim)
                for name, number in row["networks"].items()
            )
            rows.append([_capital(claim.words), claim.source.partition(" (")[0], values, _verdict(row)])
    return "\n".join(["## In short", "", *table(["claim", "paper", "our measurement", "verdict"], rows)])


def _verdict(row: dict[str, Any]) -> str:
    each = [number["verdict"] for number in row["networks"].values()]
    if len(set(each)) == 1:
        return f"**{row['verdict']}**"
    counts = ", ".join(f"{name} in {each.count(name)}" for name in dict.fromkeys(each))
    return f"**{row['verdict']}** ({counts})"


def _topic(topic: str, found: dict[str, Any]) -> str:
    rows = _rows(found, topic)
    sources = list(dict.fromkeys(claim.source for claim, _ in rows))
    lines = [f"## {topic}", "", f"Source: {'; '.join(sources)}.", ""]
    numbers = []
    for place, (claim, row) in enumerate(rows, 1):
        bound = _shown(claim.bound, claim)
        said = f"**{_capital(claim.words)}.** Measured: {claim.measured}. Holds if {claim.direction} {bound}."
        lines += paragraph(f"{place}. {said}", indent="   ")
        for name, number in row["networks"].items():
            numbers.append([str(place), name_of(name, long=True), *_long(number, claim), number["verdict"]])
    head = ["claim", "network", "number", "95 % interval, or p", "from", "verdict"]
    lines += ["", *table(head, numbers), ""]
    return "\n".join([*lines, *(DETAILS[topic](found) if topic in DETAILS else [])])


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def _short(number: dict[str, Any], claim: Claim) -> str:
    value, interval, source = _long(number, claim)
    return f"{value} ({source})" if interval == "none" else f"{value} ({interval})"


def _long(number: dict[str, Any], claim: Claim) -> tuple[str, str, str]:
    """The number, its interval or p-value, and what they come from."""
    source = f"{number['count']:,} {number['basis'] if number['count'] > 1 else number['basis'][:-1]}"
    if number["p"] is not None:
        interval = "p < 0.001" if number["p"] < 0.001 else f"p = {number['p']:.3f}"
    elif number["low"] is None:
        interval = "none"
    else:
        ends = [_shown(number[end], claim).removesuffix(claim.unit).strip() for end in ("low", "high")]
        interval = " to ".join(ends)
    return _shown(number["value"], claim), interval, source


def _shown(value: float, claim: Claim) -> str:
    if not claim.unit:
        return f"{value:.2f}" if value else "0"
    sign = "+" if claim.unit == "points" and value > 0 else ""
    return f"{sign}{100 * value:.1f} {claim.unit}" if value else "0"


def _trained(found: dict[str, Any]) -> str:
    lines = [
        "## The networks trained here",
        "",
        *paragraph(
            "[networks.py](../benchmarks/claims/networks.py) trains them on the 50,000 training images of CIFAR-10, "
            "with the recipe of `convswap compare`: SGD, a learning rate that rises to 0.2 and falls to 0, crops, "
            f"flips, label smoothing. JPEG and shifts are measured on the first {found['images']:,} test images, "
            "accuracies on all."
        ),
        "",
    ]
    rows = []
    for name, row in found["networks"].items():
        accuracies = ", ".join(f"{100 * value:.1f}" for value in row["test_accuracy"])
        options = ", ".join(f"{key}={value!r}" for key, value in row["unit_options"].items())
        unit = "" if row["unit"] == "conv" else f" with `{row['unit']}{f'({options})' if options else ''}`"
        model = f"`{row['model'].partition(':')[2] or row['model']}`{unit}"
        rows.append([name_of(name), model, f"{row['parameters']:,}", str(row["epochs"]), accuracies])
    head = ["name here", "network", "parameters", "epochs", "test accuracy of each seed, %"]
    lines += table(head, rows)
    if any(row["model_arguments"] for row in found["networks"].values()):
        lines += ["", "These `resnet18` have one block a stage and 32, 48, 64 and 64 channels."]
    return "\n".join(lines)


if __name__ == "__main__":
    write_page(RESULTS / "claims" / "claims.json", ROOT / "docs" / "claims.md")
