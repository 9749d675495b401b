"""The study of a teacher: when levels are reached, and what is compared with what."""

from __future__ import annotations

from benchmarks.studies import distillation as study


def result(*accuracies: float) -> dict[str, object]:
    rows = [{"epoch": n, "test_accuracy": value, "seconds": 10.0} for n, value in enumerate(accuracies, 1)]
    return {"test_accuracy": accuracies[-1], "history": rows, "seconds": 10.0 * len(rows)}


def test_a_level_counts_when_it_is_first_reached() -> None:
    history = result(0.5, 0.81, 0.79, 0.9)["history"]
    assert study.reached(history, 0.8) == {"epochs": 2, "seconds": 20.0}
    assert study.reached(history, 0.9) == {"epochs": 4, "seconds": 40.0}
    assert study.reached(history, 0.95) is None


def test_every_way_is_compared_with_training_from_scratch() -> None:
    found = study.summary(
        {"scratch": [result(0.5), result(0.6)], "teacher, kl": [result(0.7), result(0.8)], "warm start": []}, 0.75
    )
    assert list(found) == ["scratch", "teacher, kl"]
    assert round(found["teacher, kl"]["against_scratch"]["difference"], 6) == 20.0
    assert "against_scratch" not in found["scratch"]
    assert found["teacher, kl"]["reached"]["75.00 %"] == [None, {"epochs": 1, "seconds": 10.0}]
