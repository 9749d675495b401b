"""The page docs/claims.md, written from results/claims.json.

python benchmarks/claims_page.py    # writes the page again, measures nothing
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from claims_list import CLAIMS, Claim
from common import RESULTS

HEAD = """# Claims of the papers, tested

What the papers behind some units say about kernels and robustness, measured here. Written by
[benchmarks/claims.py](../benchmarks/claims.py); every number is in
[results/claims.json](../benchmarks/results/claims.json) with its commit and machine.

**How a verdict is made.** Each claim is a statement "this number is above (below) a bound", in
[claims_list.py](../benchmarks/claims_list.py), fixed before the measurement. Of a given network the number has a
bootstrap interval over its kernels (95 %), or, where layers are compared, a permutation test over layers (5 %); of
networks trained here it has Student's 95 % interval over training seeds, paired by seed where two are compared. The
claim **holds** if the whole interval is on the claimed side of the bound, **does not hold** if it is on the other, and
is **not decided** else. Several networks decide only together. Bounds that words leave open ("many", "most") are ours.
One rule was not blind: an earlier [run](../benchmarks/results/niff_kernels.json) had shown that frequency filters are
local before and after training.

**What the verdicts are about.** The papers' full texts were not at hand; their claims are quoted by sense from
abstracts, figure captions and published code and records. The networks trained here are small and trained briefly
(below). A verdict is about these networks, not about the papers' own.
"""

NETWORKS = {
    "mobilenet_v1_0.5_160_qat_u8": "MobileNetV1 0.5, ImageNet at 160 px, 8-bit (aware training)",
    "mobilenet_v2_1.0_224_ptq_i8": "MobileNetV2 1.0, ImageNet at 224 px, 8-bit (after training)",
    "mobilenet_v2_1.0_224_qat_u8": "MobileNetV2 1.0, ImageNet at 224 px, 8-bit (aware training)",
}


def write_page(result: Path, page: Path) -> None:
    """Write the page."""
    found = json.loads(result.read_text(encoding="utf-8"))
    parts = [HEAD, _summary(found), *(_topic(topic, found) for topic in _topics(found)), _trained(found)]
    page.write_text("\n".join(part.rstrip() + "\n" for part in parts if part), encoding="utf-8")
    print(f"wrote {page.relative_to(page.parent.parent)}")


def _topics(found: dict[str, Any]) -> list[str]:
    present = {row["claim"] for row in found["claims"]}
    return list(dict.fromkeys(claim.topic for claim in CLAIMS if claim.key in present))


def _rows(found: dict[str, Any], topic: str) -> list[tuple[Claim, dict[str, Any]]]:
    rows = {row["claim"]: row for row in found["claims"]}
    return [(claim, rows[claim.key]) for claim in CLAIMS if claim.topic == topic and claim.key in rows]


def _summary(found: dict[str, Any]) -> str:
    lines = ["## In short", "", "| claim | our measurement | verdict |", "|---|---|---|"]
    for topic in _topics(found):
        for claim, row in _rows(found, topic):
            values = "; ".join(_number(number, claim, short=True) for number in row["networks"].values())
            lines.append(f"| {claim.words} | {claim.measured}: {values} | {_verdict(row)} |")
    return "\n".join(lines)


def _verdict(row: dict[str, Any]) -> str:
    each = [number["verdict"] for number in row["networks"].values()]
    if len(set(each)) == 1:
        return f"**{row['verdict']}**"
    counts = ", ".join(f"{name} in {each.count(name)}" for name in dict.fromkeys(each))
    return f"**{row['verdict']}** ({counts})"


def _topic(topic: str, found: dict[str, Any]) -> str:
    lines = [f"## {topic}", ""]
    for claim, row in _rows(found, topic):
        bound = f"{claim.bound:.0%}" if claim.percent else f"{claim.bound:g}"
        lines += [
            f"**Claim: {claim.words}.** Source: {claim.source}. Measured: {claim.measured}. Holds if {claim.direction} "
            f"{bound}.",
            "",
            "| network | number | verdict |",
            "|---|---|---|",
        ]
        for name, number in row["networks"].items():
            lines.append(f"| {NETWORKS.get(name, name)} | {_number(number, claim)} | {number['verdict']} |")
        lines.append("")
    return "\n".join([*lines, *_details(topic, found)])


def _number(number: dict[str, Any], claim: Claim, short: bool = False) -> str:
    text = _shown(number["value"], claim)
    if number["p"] is not None:
        return (
            f"{text} (p = {number['p']:.3f})" if short else f"{text}, p = {number['p']:.3f}, {number['count']} layers"
        )
    if number["low"] is None:
        return f"{text} (no interval)" if short else f"{text}, no interval from {number['count']} {number['basis']}"
    interval = f"{_shown(number['low'], claim)} to {_shown(number['high'], claim)}"
    return f"{text} ({interval})" if short else f"{text}, {interval}, {number['count']} {number['basis']}"


def _shown(value: float, claim: Claim) -> str:
    return f"{100 * value:.1f} %" if claim.percent else f"{value:.2f}"


def _details(topic: str, found: dict[str, Any]) -> list[str]:
    details = found["details"]
    makers = {
        "Low-pass filters in strided depthwise layers": lambda: _layers(details["depthwise"]),
        "Edge-like kernels": lambda: _thresholds(found),
        "Learned frequency filters are local": lambda: _filters(details["niff"]),
        "Min-Nets under JPEG": lambda: _jpeg(details["jpeg"]),
        "The modulus under shifts": lambda: _shifts(details["shifts"]),
    }
    return makers[topic]() if topic in makers else []


def _layers(details: dict[str, Any]) -> list[str]:
    noise = details["random_kernels"]
    lines = [
        "Layer by layer: aliasing energy (identity 77 %, white noise 75 %), DC gain, and the part of each class "
        "([how they are defined](see.md#kernels)). Of random normal kernels "
        + ", ".join(f"{noise[name]:.1%} are `{name}`" for name in ("gaussian", "identity", "edge"))
        + ". `s2` marks strided layers; kernels that rounding to 8 bits made zero have no class and no gain.",
        "",
    ]
    for name, table in details["layers"].items():
        lines += [f"<details><summary>{NETWORKS.get(name, name)}</summary>", ""]
        lines += [
            "| layer | kernels (zero) | aliasing | DC gain | gaussian | identity | edge |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in table:
            mark = " s2" if row["stride"] > 1 else ""
            shares = " | ".join(f"{row[kind]:.0%}" for kind in ("gaussian", "identity", "edge"))
            count = f"{row['kernels']}" + (f" ({row['zero_kernels']})" if row["zero_kernels"] else "")
            lines.append(
                f"| {row['layer']}{mark} | {count} | {row['aliasing']:.1%} | {row['dc_gain']:.2f} | {shares} |"
            )
        lines += ["", "</details>", ""]
    lines += [
        "The pretrained CIFAR ResNets have no depthwise layer. Their dense 3x3 layers, without the stem:",
        "",
        "| network | stride | layers | aliasing | DC gain |",
        "|---|---|---|---|---|",
    ]
    for name, rows in details["dense_3x3"].items():
        for row in rows:
            lines.append(
                f"| {name} | {row['stride']} | {row['layers']} | {row['aliasing']:.1%} | {row['dc_gain']:.2f} |"
            )
    return [*lines, ""]


def _thresholds(found: dict[str, Any]) -> list[str]:
    names = {claim.key: claim.words for claim in CLAIMS}
    first = {row["claim"]: {n: v["verdict"] for n, v in row["networks"].items()} for row in found["claims"]}
    lines = []
    for threshold, networks in found["details"]["depthwise"]["other_thresholds"].items():
        for network, verdicts in networks.items():
            for key, new in verdicts.items():
                if new != first[key][network]:
                    lines.append(f"| {names[key]} | {NETWORKS.get(network, network)} | {threshold} | {new} |")
    if not lines:
        return ["With a threshold of 0.7 or 0.9 for the classes, instead of 0.8, no verdict on kernels changes.", ""]
    head = "What a threshold of 0.7 or 0.9 for the classes, instead of 0.8, changes in the verdicts on kernels:"
    return [head, "", "| claim | network | threshold | verdict |", "|---|---|---|---|", *lines, ""]


def _filters(details: dict[str, Any]) -> list[str]:
    lines = [
        "Mean part within windows, all seeds, before and after training (a white filter on a 32x32 map has 8 % within "
        "9x9):",
        "",
        "| maps | | energy 3x3 | 5x5 | 9x9 | magnitude 3x3 | 5x5 | 9x9 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for side in details["trained"][0]:
        for name, runs in (("start", details["start"]), ("trained", details["trained"])):
            cells = [
                sum(run[side][f"{kind}_{window}"] for run in runs) / len(runs)
                for kind in ("energy", "magnitude")
                for window in (3, 5, 9)
            ]
            lines.append(f"| {side}x{side} | {name} | " + " | ".join(f"{cell:.1%}" for cell in cells) + " |")
    return [*lines, ""]


def _jpeg(details: dict[str, Any]) -> list[str]:
    orders = {"rgb": "right channel order", "minnets_bgr": "the authors' channel order"}
    lines = ["Means over seeds, changed predictions / error:", ""]
    for order, title in orders.items():
        qualities = list(next(iter(details.values()))[0][order])
        lines += [f"| {title} | clean | " + " | ".join(qualities) + " |", "|---|---|" + "---|" * len(qualities)]
        for name, runs in details.items():
            cells = [f"- / {_mean([run['error'] for run in runs]):.1%}"]
            for q in qualities:
                changed, error = (_mean([run[order][q][kind] for run in runs]) for kind in ("changed", "error"))
                cells.append(f"{changed:.1%} / {error:.1%}")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def _shifts(details: dict[str, Any]) -> list[str]:
    lines = [
        "Means over seeds: flip rate at 1 px by direction and at 4 px (real pixels all around), and the consistency "
        "over the nine shifts by up to a pixel (mirrored border):",
        "",
        "| stem | accuracy | horizontal | vertical | diagonal | 4 px horizontal | consistency |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in details.items():
        flips = [_mean([run["flips"][d][0] for run in runs]) for d in ("horizontal", "vertical", "diagonal")]
        far = _mean([run["flips"]["horizontal"][3] for run in runs])
        cells = [_mean([run["accuracy"] for run in runs]), *flips, far, _mean([run["consistency"] for run in runs])]
        lines.append(f"| {name} | " + " | ".join(f"{cell:.1%}" for cell in cells) + " |")
    return [*lines, ""]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _trained(found: dict[str, Any]) -> str:
    lines = [
        "## The networks trained here",
        "",
        "By [claims_networks.py](../benchmarks/claims_networks.py) on the 50,000 training images of CIFAR-10, with the "
        "recipe of `convswap compare` (SGD, triangle to 0.2 and back to 0, crops, flips, label smoothing). Accuracy: "
        f"on all 10,000 test images. JPEG and shifts are measured on the first {found['images']:,} of them.",
        "",
        "| network | parameters | epochs | seeds | test accuracy |",
        "|---|---|---|---|---|",
    ]
    for name, row in found["networks"].items():
        accuracies = ", ".join(f"{value:.1%}" for value in row["test_accuracy"])
        lines.append(f"| {name} | {row['parameters']:,} | {row['epochs']} | {len(row['seeds'])} | {accuracies} |")
    return "\n".join(lines)


if __name__ == "__main__":
    write_page(RESULTS / "claims.json", RESULTS.parent.parent / "docs" / "claims.md")
