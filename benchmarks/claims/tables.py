"""The tables behind each topic of docs/claims.md."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.claims.stated import CLAIMS, EDGES, FILTERS, JPEG, LOW_PASS, SHIFTS

SHORT = {
    "mobilenet_v1_0.5_160_qat_u8": "MobileNetV1",
    "mobilenet_v2_1.0_224_ptq_i8": "MobileNetV2 (int8)",
    "mobilenet_v2_1.0_224_qat_u8": "MobileNetV2 (uint8)",
}
LONG = {
    "mobilenet_v1_0.5_160_qat_u8": "MobileNetV1 0.5, ImageNet at 160 px, uint8 weights",
    "mobilenet_v2_1.0_224_ptq_i8": "MobileNetV2 1.0, ImageNet at 224 px, int8 weights",
    "mobilenet_v2_1.0_224_qat_u8": "MobileNetV2 1.0, ImageNet at 224 px, uint8 weights",
    "plain and max and blur and modulus": "small `resnet18`, by stem",
}


def name_of(network: str, long: bool = False) -> str:
    """A network's readable name."""
    return (LONG if long else SHORT).get(network, network)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def paragraph(text: str, indent: str = "") -> list[str]:
    """The lines of a paragraph; all but the first are indented."""
    return textwrap.wrap(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _layers(found: dict[str, Any]) -> list[str]:
    details = found["details"]["depthwise"]
    noise = ", ".join(
        f"{_percent(details['random_kernels'][name])} `{name}`" for name in ("gaussian", "identity", "edge")
    )
    lines = [
        line
        for pair, cosine in details["likeness"].items()
        for first, _, second in [pair.partition(" and ")]
        for line in paragraph(
            f"{name_of(first)} and {name_of(second)} are one network rounded in two ways, not two witnesses: "
            f"the median cosine between the same kernels of both is {cosine:.3f}."
            if cosine > 0.9
            else f"The median cosine between the same kernels of {name_of(first)} and {name_of(second)} "
            f"is {cosine:.3f}."
        )
    ]
    lines += [
        "",
        *paragraph(
            "Layer by layer, the tables show aliasing energy at stride 2 (identity 77 %, white noise 75 %), DC gain, "
            "and the part of each class ([definitions](see.md#kernels)). Of random normal kernels the parts are "
            f"{noise}. `centre` counts kernels whose centre tap holds nine tenths of the energy. Strided layers are "
            "marked `s2`."
        ),
        "",
    ]
    kinds = ("gaussian", "identity", "edge", "centred")
    for name, layers in details["layers"].items():
        rows = [
            [
                row["layer"] + (" `s2`" if row["stride"] > 1 else ""),
                str(row["kernels"]) + (f" ({row['zero_kernels']} zero)" if row["zero_kernels"] else ""),
                f"{100 * row['aliasing']:.0f} %",
                f"{row['dc_gain']:.2f}",
                *(f"{100 * row[kind]:.0f} %" for kind in kinds),
            ]
            for row in layers
        ]
        head = ["layer", "kernels", "aliasing", "DC gain", *kinds[:3], "centre"]
        lines += [
            f"<details><summary>{name_of(name, long=True)}</summary>",
            "",
            *table(head, rows),
            "",
            "</details>",
            "",
        ]
    if any(name.endswith("before training") for name in details["layers"]):
        lines += [
            *paragraph(
                "The small MobileNet was trained for one epoch and is still near its random start (compare its two "
                "tables, of seed 0). It can show the changes that training begins with, and hardly the look of trained "
                "kernels."
            ),
            "",
        ]
    lines += ["The pretrained CIFAR ResNets have no depthwise layers. Their dense 3x3 layers, without the stem:", ""]
    dense = [
        [name, str(row["stride"]), str(row["layers"]), _percent(row["aliasing"]), f"{row['dc_gain']:.2f}"]
        for name, rows in details["dense_3x3"].items()
        for row in rows
    ]
    return [*lines, *table(["network", "stride", "layers", "aliasing", "DC gain"], dense), ""]


def _thresholds(found: dict[str, Any]) -> list[str]:
    words = {claim.key: claim.words for claim in CLAIMS}
    first = {row["claim"]: {n: v["verdict"] for n, v in row["networks"].items()} for row in found["claims"]}
    rows = [
        [words[key], name_of(network), threshold, f"{new} (was: {first[key][network]})"]
        for threshold, networks in found["details"]["depthwise"]["other_thresholds"].items()
        for network, verdicts in networks.items()
        for key, new in verdicts.items()
        if new != first[key][network]
    ]
    if not rows:
        return ["With a threshold of 0.7 or 0.9 for the classes instead of 0.8 no verdict on kernels changes.", ""]
    head = "With a threshold of 0.7 or 0.9 for the classes instead of 0.8, these verdicts on kernels change:"
    return [head, "", *table(["claim", "network", "threshold", "verdict"], rows), ""]


def _filters(found: dict[str, Any]) -> list[str]:
    details = found["details"]["niff"]
    rows = []
    for side in details["trained"][0]:
        for name, runs in (("start", details["start"]), ("trained", details["trained"])):
            parts = [f"{kind}_{window}" for kind in ("energy", "magnitude") for window in (3, 5, 9)]
            rows.append(
                [f"{side}x{side}", name, *(_percent(_mean([run[side][part] for run in runs])) for part in parts)]
            )
    head = ["maps", "", *(f"{kind} {w}x{w}" for kind in ("energy", "magnitude") for w in (3, 5, 9))]
    return [
        "Mean part within windows before and after training. White noise on a 32x32 map has 8 % within 9x9.",
        "",
        *table(head, rows),
        "",
    ]


def _jpeg(found: dict[str, Any]) -> list[str]:
    details = found["details"]["jpeg"]
    titles = {"rgb": "right channel order", "minnets_bgr": "the authors' channel order"}
    lines = ["Means over seeds by quality, changed predictions / error:", ""]
    for order, title in titles.items():
        qualities = list(next(iter(details.values()))[0][order])
        rows = []
        for name, runs in details.items():
            cells = [
                " / ".join(_percent(_mean([run[order][q][kind] for run in runs])) for kind in ("changed", "error"))
                for q in qualities
            ]
            rows.append([name, _percent(_mean([run["error"] for run in runs])), *cells])
        lines += [*table([title, "clean error", *qualities], rows), ""]
    return lines


def _shifts(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, runs in found["details"]["shifts"].items():
        flips = [_mean([run["flips"][k] for run in runs]) for k in range(4)]
        cells = [_mean([run["accuracy"] for run in runs]), *flips, _mean([run["consistency"] for run in runs])]
        rows.append([name, *map(_percent, cells)])
    head = ["stem", "accuracy", "flips at 1 px", "2 px", "3 px", "4 px", "consistency"]
    return [
        *paragraph(
            "Means over seeds. The flip rate is that at horizontal shifts, with real pixels all around. Consistency is "
            "over the nine shifts by up to a pixel with a mirrored border. The verdicts are about 1 px. Features of "
            "untrained stems, and answers of networks trained from one seed on fewer images, are in "
            "[shift_stability](../benchmarks/results/studies/shift_stability.json)."
        ),
        "",
        *table(head, rows),
        "",
    ]


DETAILS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    LOW_PASS: _layers,
    EDGES: _thresholds,
    FILTERS: _filters,
    JPEG: _jpeg,
    SHIFTS: _shifts,
}
"""By topic, the lines below its verdicts."""
