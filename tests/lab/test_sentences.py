"""One sentence per variant, in words a person understands, and no more than the numbers support."""

from __future__ import annotations

from typing import Any

import pytest

from convswap.lab.report.hosts import ranks_over_models
from convswap.lab.report.sentences import sentences, untested
from convswap.lab.report.terminal import in_words
from convswap.lab.report.view import view_rows
from convswap.lab.store import StoredTrial
from convswap.lab.summary import summarize
from convswap.lab.trial import Trial

MINUS = "\N{MINUS SIGN}"
CONV = [0.900, 0.902, 0.901, 0.899, 0.903]


def trials(unit: str, accuracies: list[float], model: str = "m") -> list[StoredTrial]:
    found = []
    for seed, accuracy in enumerate(accuracies):
        trial = Trial(model=model, data="digits", data_fingerprint="f", recipe={}, seed=seed, unit=unit)
        found.append(StoredTrial(trial.id, trial, "finished", {"test_accuracy": accuracy}, None, 0.0, 1.0))
    return found


def rows(margin: float = 0.005, **units: list[float]) -> list[dict[str, Any]]:
    return summarize([one for unit, values in units.items() for one in trials(unit, values)], margin=margin)


def said(margin: float = 0.005, **units: list[float]) -> str:
    ((_, sentence),) = sentences(view_rows(rows(margin, **units)))
    return sentence


def shifted(by: float) -> list[float]:
    return [value + by for value in (0.901, 0.899, 0.902, 0.903, 0.900)]


def test_better() -> None:
    sentence = said(conv=CONV, circle=shifted(0.01))
    assert sentence == (
        "circle is better than conv by 1.00 points (95 % interval +0.77 to +1.23 by itself; p = 0.008, 5 seeds). A run "
        "of circle beats one of conv with probability 1.00 (1.00 to 1.00): a meaningful gain."
    )


def test_worse_is_never_called_meaningful() -> None:
    sentence = said(conv=CONV, circle=shifted(-0.01))
    assert sentence.startswith("circle is worse than conv by 1.00 points (95 % interval")
    assert "probability 0.00 (0.00 to 0.00)." in sentence
    assert "gain" not in sentence


def test_better_by_less_than_matters() -> None:
    sentence = said(0.02, conv=CONV, circle=shifted(0.006))
    assert "is better than conv by 0.60 points" in sentence
    assert "The difference is below 2 points all the same (equivalence test, p < 0.001)." in sentence


def test_equal_is_shown_and_not_only_not_rejected() -> None:
    sentence = said(conv=CONV, circle=shifted(0.0005))
    assert sentence.startswith("circle equals conv within 0.5 points (equivalence test, p = 0.00")
    assert sentence.endswith("difference +0.05, 5 seeds).")


def test_no_evidence_says_how_many_seeds_would_do() -> None:
    sentence = said(conv=[0.90, 0.91, 0.89, 0.92, 0.88], circle=[0.91, 0.92, 0.90, 0.89, 0.915])
    assert sentence.startswith("No evidence of a difference between circle and conv (+0.70 points, 95 % interval ")
    assert sentence.endswith("; with this spread, about 125 seeds each would show 0.5 points with probability 0.8.")


def test_too_few_seeds_say_so() -> None:
    sentence = said(conv=[0.90, 0.91, 0.92], circle=[0.95, 0.96, 0.97])
    assert sentence.startswith("Too few seeds to see a difference between circle and conv (+5.00 points")
    assert "gives p below 0.10; 4 seeds each could." in sentence


def test_several_units_are_corrected_and_the_sentence_says_so() -> None:
    given = rows(conv=CONV, circle=shifted(0.01), ic=CONV)
    found = {row.label: text for row, text in sentences(view_rows(given))}
    assert "p = 0.016 after Holm, 5 seeds" in found["circle"]
    assert "(equivalence test, p = 0.001 after Holm; difference 0.00" in found["ic"]


def test_values_that_do_not_vary() -> None:
    assert "no interval: the values do not vary" in said(conv=[0.9] * 5, circle=[0.91] * 5)


@pytest.mark.parametrize(("low", "doubt"), [(-0.01, True), (0.001, False)])
def test_new_images_may_undo_a_claim(low: float, doubt: bool) -> None:
    given = rows(conv=CONV, circle=shifted(0.01))
    given[1]["tests"]["new_images"] = {"low": low, "high": 0.03, "images": 100}
    ((_, sentence),) = sentences(view_rows(given))
    assert "For other images of this kind: " in sentence
    assert ("so it may not hold there" in sentence) == doubt


def test_rows_without_enough_seeds_are_named() -> None:
    views = view_rows(rows(conv=CONV, circle=[0.9, 0.91]))
    assert sentences(views) == []
    assert untested(views) == "Not tested, for want of 3 finished seeds on both sides: circle."
    assert untested(view_rows(rows(conv=CONV))) == ""


def test_several_models_are_named_and_ranked() -> None:
    units = {"conv": 0.0, "circle": 0.01, "ic": -0.01}
    stored = [one for model in ("a", "b") for unit, by in units.items() for one in trials(unit, shifted(by), model)]
    given = summarize(stored)
    found = in_words(given)
    assert found[0].startswith("a: circle is better than conv")
    assert any(line.startswith("b: ic is worse than conv") for line in found)
    assert found[-1].startswith("Mean rank over 2 comparisons: circle 1, conv 2, ic 3; Friedman's test")
    assert ranks_over_models(view_rows([row for row in given if row["model"] == "a"])) == ""
