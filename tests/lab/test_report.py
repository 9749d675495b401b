"""The report page and the terminal table, built from made-up rows."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from convswap.lab.decide import seeds_to_reach
from convswap.lab.report import terminal_table, write_report
from convswap.lab.report.page import _title
from convswap.lab.report.verdict import verdict
from convswap.lab.report.view import view_rows

VOID = {"meta", "br", "img", "link", "input", "hr", "col"}
SVG_SINGLE = {"path", "rect", "line", "circle", "use", "polygon"}
HOSTILE = '<script>alert("x")</script>'


class Page(HTMLParser):
    """Checks that tags are balanced and notes everything that would be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.tags.append(tag)
        self.loaded += [str(values[name]) for name in ("src", "data", "srcset") if name in values]
        if tag == "link":
            self.loaded.append(str(values.get("href")))
        if tag == "a":
            self.links.append(str(values.get("href")))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def row(unit: str, accuracies: list[float], **changes: Any) -> dict[str, Any]:
    mean = sum(accuracies) / len(accuracies) if accuracies else None
    known = {
        "model": "cifar_resnet8",
        "axis": "unit",
        "variant": unit,
        "is_baseline": unit == "conv",
        "unit": unit,
        "options": {},
        "where": None,
        "n_seeds": len(accuracies),
        "accuracies": accuracies,
        "trial_ids": [f"{unit[:6]}{i:010d}" for i in range(len(accuracies))],
        "seeds": list(range(len(accuracies))),
        "mean": mean,
        "low": None if mean is None or len(accuracies) < 2 else mean - 0.01,
        "high": None if mean is None or len(accuracies) < 2 else mean + 0.01,
        "sd": 0.004,
        "parameters": 75002,
        "macs": 747000,
        "parameters_fused": 74000,
        "macs_fused": 747000,
        "latency_ms": {"median_ms": 1.0, "q1_ms": 0.9, "q3_ms": 1.4},
        "latency_fused_ms": {"median_ms": 0.8, "q1_ms": 0.79, "q3_ms": 0.81},
        "difference": None,
        "diff_low": None,
        "diff_high": None,
        "p_value": None,
        "p_holm": None,
        "probability_better": None,
        "tests": None,
        "ranked": len(accuracies) >= 3,
        "rank": None,
        "failed": 0,
        "replaced": None,
    }
    return known | changes


def record(id: str, unit: str, seed: int, accuracy: float | None, **changes: Any) -> dict[str, Any]:
    trial = {
        "model": "cifar_resnet8",
        "unit": unit,
        "unit_options": {},
        "where": None,
        "data": "digits",
        "data_fingerprint": "f" * 64,
        "image_size": None,
        "recipe": {"epochs": 2, "learning_rate": 0.2},
        "seed": seed,
        "weights": None,
        "pretrained": False,
        "start": "fresh",
        "normalization": None,
        "model_arguments": {},
        "version": "0.1.0",
    }
    history = [{"epoch": e, "test_accuracy": (accuracy or 0) - 0.1 + 0.1 * e} for e in (0, 1)]
    result = None if accuracy is None else {"test_accuracy": accuracy, "history": history, "seconds": 1.0}
    return {"id": id, "status": "finished", "trial": trial, "result": result, "traceback": None} | changes


def example() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    plan = {
        "unit": "circle",
        "options": {},
        "where": "spatial & !first",
        "start": "fresh",
        "functional_convolutions": 0,
        "skipped": [{"path": "stem", "reason": HOSTILE}],
        "replacements": [
            {
                "path": "layer1.0.conv1",
                "other_paths": [],
                "geometry": "16->16 3x3",
                "unit": "circle",
                "start": "fresh",
                "parameters_before": 2304,
                "parameters_after": 2304,
                "macs_before": 10,
                "macs_after": 12,
            }
        ],
    }
    better = {"difference": 0.0123, "diff_low": 0.001, "diff_high": 0.023, "p_value": 0.01, "p_holm": 0.02}
    rows = [
        row("conv", [0.90, 0.91, 0.92]),
        row("circle", [0.92, 0.93, 0.917], replaced=plan, probability_better=0.9, **better),
        row("ic", [0.95], failed=1),
        row(HOSTILE, [], failed=2, latency_ms=None, latency_fused_ms=None),
    ]
    records = [record(id, r["unit"], i, r["accuracies"][i]) for r in rows for i, id in enumerate(r["trial_ids"])]
    trace = "Traceback (most recent call last):\n  ...\nTrainingError: the loss is nan & <gone>"
    records.append(record("failed0000000000", "ic", 1, None, status="failed", traceback=trace))
    return rows, records


@pytest.fixture
def page(tmp_path: Path) -> str:
    rows, records = example()
    path = write_report(
        tmp_path, rows, records, command=f"convswap compare {HOSTILE}", versions={"torch": "2.15"}, machine={"cpu": "a"}
    )
    assert path == tmp_path / "report.html"
    return path.read_text(encoding="utf-8")


def test_it_is_whole_and_loads_nothing(page: str) -> None:
    parsed = Page(page)
    assert parsed.loaded == []
    assert "script" not in parsed.tags
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page


def test_every_number_leads_to_its_trials(page: str) -> None:
    _, records = example()
    parsed = Page(page)
    for each in records:
        assert each["id"] in page
        assert any(each["id"] in link for link in parsed.links)
    for target in (link[1:] for link in parsed.links if link.startswith("#")):
        assert f'id="{target}"' in page


@pytest.mark.parametrize(
    ("axes", "title"),
    [
        (["unit"], "Convolution units on digits"),
        (["regularize", "regularize"], "Regularisers on digits"),
        (["recipe", "unit"], "Recipes and convolution units on digits"),
        (["mine"], "Values of mine on digits"),
        ([], "Convolution units on digits"),
    ],
)
def test_the_title_says_what_varies(axes: list[str], title: str) -> None:
    assert _title(axes, ["digits"]) == title


def test_what_it_says(page: str) -> None:
    assert "<h1>Convolution units on digits</h1>" in page
    assert "91.00 ± 1.00" in page
    assert "+1.23" in page
    assert "not ranked" in page
    assert "74,000" in page
    assert "75,002 in training" in page
    assert "747 k in training" not in page
    assert "TrainingError: the loss is nan &amp; &lt;gone&gt;" in page
    assert "layer1.0.conv1" in page
    assert page.count("<svg") >= 3
    assert page.count("aria-label") >= 3


def test_verdict_is_honest() -> None:
    rows, _ = example()
    ((_, sentence),) = verdict(view_rows(rows))
    assert "circle" in sentence
    few = [row("conv", [0.9]), row("circle", [0.99])]
    ((_, sentence),) = verdict(view_rows(few))
    assert "oo few seeds" in sentence


def compared(unit: str, difference: float, p_holm: float, n: int) -> dict[str, Any]:
    return row(unit, [0.9 + difference] * n, difference=difference, p_value=p_holm, p_holm=p_holm)


def test_verdict_tells_better_worse_and_indistinguishable_apart() -> None:
    rows = [
        row("conv", [0.9] * 6),
        compared("circle", 0.01, 0.02, 6),
        compared("ic", -0.02, 0.01, 6),
        compared("circle_mix", 0.003, 0.4, 6),
        row("circle_square", [0.99, 0.98]),
    ]
    ((model, sentence),) = verdict(view_rows(rows))
    assert model == "cifar_resnet8"
    assert "Better than conv at 95 % after Holm's correction: circle (+1.00 points)." in sentence
    assert "Worse than conv at 95 % after Holm's correction: ic (\N{MINUS SIGN}2.00 points)." in sentence
    assert "Indistinguishable from conv at 95 % after Holm's correction: circle_mix (+0.30 points)." in sentence
    assert "Not compared, for lack of finished seeds: circle_square." in sentence


def test_three_seeds_cannot_reach_95_percent_and_the_verdict_says_so() -> None:
    rows = [row("conv", [0.9] * 3), compared("circle", 0.05, 0.2, 3), compared("ic", -0.05, 0.2, 3)]
    ((_, sentence),) = verdict(view_rows(rows))
    assert sentence.startswith("Too few seeds to say: with 3 seeds against 3 even the clearest difference has p = 0.20")
    assert "5 seeds each could reach 95 %" in sentence
    assert [seeds_to_reach(comparisons) for comparisons in (1, 2, 10)] == [4, 5, 6]


def test_ids_on_the_page_are_unique(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'aria-labelledby="([^"]+)"', page))
    assert used <= set(ids)


def test_charts_take_the_pages_colours(page: str) -> None:
    drawings = "".join(re.findall(r'<svg role="img".*?</svg>', page, re.DOTALL))
    assert "var(--look1)" in drawings
    assert not re.search(r'(fill|stroke)="(black|white|#[0-9a-fA-F]{3,6})"', drawings)


def test_two_models_get_a_verdict_each_and_repeated_units_their_options(tmp_path: Path) -> None:
    rows = [
        row("conv", [0.9, 0.91, 0.92]),
        row("circle", [0.9, 0.91, 0.92], options={"radius": "learnable"}),
        row("circle", [0.9, 0.91, 0.92], where="3x3"),
        row("conv", [0.8], model="other"),
    ]
    assert [view.label for view in view_rows(rows)] == ["conv", "circle radius=learnable", "circle where 3x3", "conv"]
    text = write_report(tmp_path, rows, [], command="c", versions={}, machine={}).read_text(encoding="utf-8")
    Page(text)
    assert text.count('<p class="verdict">') == 2


def test_an_empty_lab(tmp_path: Path) -> None:
    text = write_report(tmp_path, [], [], command="c", versions={}, machine={}).read_text(encoding="utf-8")
    Page(text)
    assert "No trial has been run yet" in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_terminal_table_fits(width: int) -> None:
    rows, _ = example()
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - closed with the test
    console.print(terminal_table(rows, width=width))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert "circle" in text
    assert "91.00" in text
    assert "ic*" in text
    header, left_out = text.splitlines()[1], " ".join(text.partition("no room for ")[2].split())
    assert ("P(better)" in header) == (width >= 100)
    assert ("~ noisy" in text) == ("ms fused" in header)
    for name in ("accuracy %", "vs conv", "n", "p (Holm)", "params", "MACs", "ms fused", "P(better)"):
        assert (f" {name} " in f" {header} ") != (name in left_out.partition(":")[0].split(", ")), name


def test_one_epoch_is_no_curve(tmp_path: Path) -> None:
    rows, records = example()
    for each in records:
        if each["result"]:
            each["result"]["history"] = each["result"]["history"][:1]
    text = write_report(tmp_path, rows, records, command="c", versions={}, machine={}).read_text(encoding="utf-8")
    Page(text)
    assert "Learning curves" not in text


def test_few_epochs_have_a_tick_each(tmp_path: Path) -> None:
    rows, records = example()
    for each in records:
        if each["result"]:
            each["result"]["history"] = each["result"]["history"][:1] * 3
    text = write_report(tmp_path, rows, records, command="c", versions={}, machine={}).read_text(encoding="utf-8")
    charts = [chart for chart in re.findall(r"<svg.*?</svg>", text, re.DOTALL) if ">epoch<" in chart]
    assert charts
    for chart in charts:
        labels = chart.partition(">epoch<")[0].rpartition("role-axis-label")[2]
        assert re.findall(r">([^<>]+)</text>", labels) == ["1", "2", "3"]


def test_every_look_is_its_own() -> None:
    from convswap.lab.report.svg import color, shape

    looks = [(color(look), shape(look)) for look in range(40)]
    assert len(set(looks)) == 40
