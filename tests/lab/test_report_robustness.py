"""Robustness and cost vectors on the report page and the terminal, from made-up rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_report import Page, record, row

from convswap.lab.report import robustness_table, terminal_table, write_report
from convswap.lab.report.costs import table
from convswap.lab.report.robustness import cell, sections
from convswap.lab.report.view import view_rows

MINUS = "\N{MINUS SIGN}"


def score(mean: float, difference: float | None = None, p: float | None = None) -> dict[str, Any]:
    against = {"difference": difference, "diff_low": None, "diff_high": None, "p_value": p, "p_holm": p}
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01} | against


def robust(scores: dict[str, Any], paired: dict[str, Any] | None = None, n: int = 6) -> dict[str, Any]:
    conditions = [("clean", "clean", 0.9), ("noise", "gaussian noise", 0.5), ("blur", "zoom blur", 0.6)]
    return {
        **{"profile": "quick", "seed": 0, "images": 1000, "left_out": {"flips": "<not> alike"}, "n": n},
        "scores": scores,
        "conditions": [
            {"group": group, "name": name, "mean": mean, "low": mean - 0.02, "high": mean + 0.02}
            for group, name, mean in conditions
        ],
        "paired": paired,
    }


def seeded() -> list[dict[str, Any]]:
    """Six seeds each: circle is better in one score and worse in another, ic is neither."""
    plain = {"corruption_accuracy": score(0.5), "jpeg_changed": score(0.2)}
    mixed = {"corruption_accuracy": score(0.47, -0.03, 0.01), "jpeg_changed": score(0.15, -0.05, 0.02)}
    same = {"corruption_accuracy": score(0.6, 0.1, 0.06), "jpeg_changed": score(0.2, 0.0, 1.0)}
    given = {"conv": plain, "circle": mixed, "ic": same}
    return [row(unit, [0.9] * 6, robustness=robust(scores)) for unit, scores in given.items()]


def paired() -> list[dict[str, Any]]:
    differences = {
        "clean": {"difference": -0.02, "low": -0.04, "high": 0.01, "only_first": 1, "only_second": 3, "p_value": 0.625},
        "corruptions": {
            "difference": 0.03,
            "low": 0.01,
            "high": 0.05,
            "only_first": 9,
            "only_second": 3,
            "p_value": None,
        },
    }
    found = robust({"accuracy": score(0.9)}, {"seed": 4, "differences": differences}, n=1)
    return [
        row("conv", [0.9], robustness=robust({"accuracy": score(0.9)}, n=1)),
        row("circle", [0.9], robustness=found),
    ]


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    records = [record(id, r["unit"], i, r["accuracies"][i]) for r in rows for i, id in enumerate(r["trial_ids"])]
    path = write_report(folder, rows, records, command="c", versions={}, machine={})
    return path.read_text(encoding="utf-8")


def section(page: str) -> str:
    return page.partition('<section id="robustness">')[2].partition("</section>")[0]


def test_better_and_worse_are_written_where_the_test_says_so(tmp_path: Path) -> None:
    conv, circle, ic = view_rows(seeded())
    (part,) = sections([conv, circle, ic])
    assert [score.name for score in part.scores] == ["corruption_accuracy", "jpeg_changed"]
    assert [cell(circle, s).verdict for s in part.scores] == ["worse", "better"]  # of changed answers fewer are better
    assert [cell(ic, s).verdict for s in part.scores] == ["", ""]
    assert (part.compared, part.hopeless) == (True, False)
    page = write(tmp_path, seeded())
    Page(page)
    found = section(page)
    assert f'{MINUS}5.00 </small><small><b class="better">▲ better</b> <i>p</i> 0.020</small>' in found
    assert f'{MINUS}3.00 </small><small><b class="worse">▼ worse</b> <i>p</i> 0.010</small>' in found
    assert (found.count('class="better"'), found.count('class="worse"')) == (1, 1)
    assert "47.00 ± 1.00" in found
    assert f"{MINUS}3.00" in found
    assert "1,000 test images" in found
    assert "&lt;not&gt; alike" in found
    assert "Two networks at a time" not in found


def test_three_seeds_are_told_to_be_hopeless(tmp_path: Path) -> None:
    rows = seeded()
    for each in rows:
        each["robustness"]["n"] = 3
    assert sections(view_rows(rows))[0].hopeless
    assert "With so few seeds no difference can reach 95 %" in section(write(tmp_path, rows))


def test_few_seeds_show_two_networks_and_no_verdict(tmp_path: Path) -> None:
    found = section(write(tmp_path, paired()))
    assert "Two networks at a time" in found
    assert "seed 4, against conv<" in found
    assert f"{MINUS}2.00<small>[{MINUS}4.00, +1.00]</small><small><i>p</i> 0.62</small>" in found
    assert "+3.00<small>[+1.00, +5.00]</small></td>" in found
    assert "better</b>" not in found


def test_the_chart_can_be_heard_and_takes_the_pages_colours(tmp_path: Path) -> None:
    page = write(tmp_path, seeded())
    drawings = re.findall(r'<svg role="img".*?</svg>', section(page), re.DOTALL)
    assert len(drawings) == 2  # wide and narrow
    for drawing in drawings:
        assert "conv 90.00 % clean, least under gaussian noise: 50.00 %" in drawing
        assert "zoom blur" in drawing
        assert "var(--look1)" in drawing
        assert not re.search(r'(fill|stroke)="(black|white|#[0-9a-fA-F]{3,6})"', drawing)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_rows_without_numbers_leave_the_others_theirs(tmp_path: Path) -> None:
    rows = [*seeded()[:2], row("ic", [0.9] * 6), row("conv", [0.8] * 6, model="other")]
    page = write(tmp_path, rows)
    Page(page)
    assert section(page).count("<svg role") == 2
    assert "Not measured: ic." in section(page)
    assert section(page).count("Not measured") == 1


def test_what_was_not_measured_is_said_to_be_so(tmp_path: Path) -> None:
    found = section(write(tmp_path, [row("conv", [0.9] * 3)]))
    assert "--robustness quick" in found
    assert "<table>" not in found
    assert robustness_table([row("conv", [0.9] * 3)]) is None


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_terminal_marks_better_and_worse(width: int) -> None:
    found = robustness_table(seeded(), width=width)
    assert found is not None
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - closed with the test
    console.print(found)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert "47.00▼" in text
    assert "15.00▲" in text
    assert "1000 images" in " ".join(text.split())
    assert "▲▼ better, worse than conv" in " ".join(text.split())


def vector(**changes: int) -> dict[str, Any]:
    names = ("macs_float", "macs_int8", "macs_binary", "additions", "multiplications", "comparisons", "special")
    known = dict.fromkeys((*names, "bitwise", "fft", "activations", "bytes_moved"), 0)
    return {**known, "parameters": {"bits": 8000}, **changes}


def test_cost_vectors_are_told_against_convs(tmp_path: Path) -> None:
    conv = vector(macs_float=1000, additions=10, comparisons=5, bytes_moved=700)
    xnor = vector(macs_float=40, macs_binary=960, additions=10, comparisons=5, bytes_moved=70)
    rows = [
        row("conv", [0.9] * 3, cost=conv),
        row("xnor", [0.9] * 3, cost=conv, cost_fused=xnor | {"parameters": {"bits": 800}}),
    ]
    found = table(view_rows(rows))
    assert found is not None
    assert found.headings == [
        "float MACs",
        "binary MACs",
        "other operations",
        "weights, bytes",
        "activations",
        "bytes moved",
    ]
    (_, plain), (_, binary) = found.lines
    assert plain == [("1.00 k", ""), ("0", ""), ("15", ""), ("1.00 k", ""), ("0", ""), ("700", "")]
    assert binary == [("40", "×0.040"), ("960", ""), ("15", ""), ("100", "×0.10"), ("0", ""), ("70", "×0.10")]
    trained = table(view_rows(rows), trained=True)
    assert trained is not None
    assert trained.lines[1][1][0] == ("1.00 k", "")
    page = write(tmp_path, rows)
    Page(page)
    assert "What an inference of one image costs" in page
    assert "The same as trained, before fuse" in page


def test_labs_without_vectors_show_none(tmp_path: Path) -> None:
    rows = [row("conv", [0.9] * 3)]
    assert table(view_rows(rows)) is None
    assert "What an inference of one image costs" not in write(tmp_path, rows)
    assert "params" in {column.header for column in terminal_table(rows, width=120).columns}
