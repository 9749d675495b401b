"""What a lab keeps of measurements is used again for the very same networks, input and version only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from convswap.data import load_data
from convswap.lab import Store, StoredTrial, Trial, pictures, timing
from convswap.lab.pictures import PICTURES_FILE, make_pictures
from convswap.lab.store import STORE_FILE
from convswap.lab.timing import measure_lab


def trial(seed: int = 0, **changes: Any) -> Trial:
    described = {"model": "m", "data": "digits", "data_fingerprint": "f", "recipe": {}, "unit": "circle"}
    return Trial(**described | {"seed": seed} | changes)


def fill(lab: Path, *trials: Trial) -> list[StoredTrial]:
    with Store(lab / STORE_FILE) as store:
        for one in trials:
            store.add(one)
            store.finish(one.id, {"test_accuracy": 0.5, "parameters": 1, "macs": 1, "plan": None, "seconds": 1.0})
        return store.rows()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The ids of the networks that were measured, a list for each time."""
    seen: list[list[str]] = []

    def measure(lab: Path, chosen: list[StoredTrial], example: torch.Tensor, latency: bool) -> dict[str, Any]:
        seen.append([stored.id for stored in chosen])
        return {stored.id: {"latency_ms": 1.0, "fused": True} for stored in chosen}

    monkeypatch.setattr(timing, "_measure", measure)
    return seen


def test_latency_is_measured_again_at_another_input(tmp_path: Path, measured: list[list[str]]) -> None:
    rows = fill(tmp_path, trial())
    for size in (8, 8, 16, 16, 8):
        found = measure_lab(tmp_path, rows, torch.zeros(1, 1, size, size))
        assert found["conditions"]["input"] == f"1x1x{size}x{size}"
    assert len(measured) == 3


def test_every_network_is_measured_once(tmp_path: Path, measured: list[list[str]]) -> None:
    twins = [trial(), trial(seed=1)]
    others = [
        trial(unit="conv"),
        trial(unit_options={"radius": 1.2}),
        trial(where="3x3"),
        trial(model="n"),
        trial(normalization={"mean": [0.5], "std": [0.5]}),
    ]
    measure_lab(tmp_path, fill(tmp_path, *twins, *others), torch.zeros(1, 1, 8, 8))
    assert measured == [[one.id for one in (twins[0], *others)]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models of which pictures were made."""
    seen: list[str] = []

    def group(lab: Path, model: str, rows: Any, chosen: dict[str, StoredTrial], data: Any, tell: Any) -> dict[str, Any]:
        seen.append(model)
        ids = {name: stored.id for name, stored in chosen.items()}
        figures = [{"title": "t", "note": "", "alt": "", "png": ""}]
        fields = {"model": model, "version": pictures.__version__, "trials": ids, "note": "", "figures": figures}
        return fields | {"table": [], "problems": []}

    monkeypatch.setattr(pictures, "_group", group)
    return seen


@pytest.mark.parametrize(("field", "value"), [("version", "0.0.1"), ("trials", {"circle": "0" * 16}), ("figures", [])])
def test_pictures_are_made_again_where_anything_of_them_changed(
    tmp_path: Path, drawn: list[str], field: str, value: Any
) -> None:
    rows, data = fill(tmp_path, trial()), load_data("digits")
    for _ in range(2):
        make_pictures(tmp_path, rows, data, progress=False)
    assert drawn == ["m"]
    kept = json.loads((tmp_path / PICTURES_FILE).read_text())
    kept["groups"][0][field] = value
    (tmp_path / PICTURES_FILE).write_text(json.dumps(kept))
    make_pictures(tmp_path, rows, data, progress=False)
    assert drawn == ["m", "m"]
