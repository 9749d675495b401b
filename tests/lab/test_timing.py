"""Latency and fused costs of a lab, also where the network is a function of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convswap.data import load_data
from convswap.errors import StoreError
from convswap.lab import Store, Trial, run_grid, summarize
from convswap.lab.store import STORE_FILE
from convswap.lab.timing import LATENCY_FILE, measure_lab, read_latency
from convswap.train import digits_recipe


def small(num_classes: int, in_channels: int) -> nn.Module:
    """A network with a batch norm to fold."""
    conv = nn.Conv2d(in_channels, 4, 3, padding=1, stride=2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, num_classes))


def test_a_lab_is_measured_once_and_summed_up(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    data = load_data("digits")
    common: dict[str, Any] = {"data": "digits", "data_fingerprint": data.fingerprint}
    common |= {"recipe": digits_recipe(epochs=1).as_dict(), "model": f"{__name__}:small"}
    trials = [Trial(unit="conv", seed=seed, **common) for seed in (0, 1)]
    trials.append(Trial(unit="circle", where="all", seed=0, **common))
    run_grid(trials, tmp_path, progress=False)
    with Store(tmp_path / STORE_FILE, write=False) as store:
        rows = store.rows()
    example = torch.zeros(1, 1, 8, 8)
    counted = measure_lab(tmp_path, rows, example, latency=False)
    assert counted["conditions"] == {}
    assert set(counted["trials"]) == {trials[0].id, trials[2].id}
    assert all("cost_fused" in found and "latency_ms" not in found for found in counted["trials"].values())
    assert measure_lab(tmp_path, rows, example, latency=False) == counted
    measured = measure_lab(tmp_path, rows, example)
    assert set(measured["trials"]) == {trials[0].id, trials[2].id}  # one of the two seeds stands for both
    assert measure_lab(tmp_path, rows, example) == measured
    assert read_latency(tmp_path) == measured
    conv, circle = summarize(rows, measured["trials"])
    plain = 4 * 9 * 16 + 64 * 10
    assert (conv["macs"], conv["macs_fused"], circle["macs_fused"]) == (plain, plain, plain)
    assert circle["macs"] == plain + 4 * 9 * 9  # forming w T
    assert conv["parameters"] == conv["parameters_fused"] + 4  # gamma and beta become a bias
    assert circle["latency_fused_ms"]["median_ms"] > 0
    assert measure_lab(tmp_path, rows, example, latency=False) == measured
    assert circle["cost"]["macs_float"] == circle["macs"]
    assert circle["cost_fused"] == conv["cost_fused"]
    assert conv["cost"]["parameters"]["bits"] == conv["cost_fused"]["parameters"]["bits"] + 32 * 3 * 4 + 64
    (tmp_path / LATENCY_FILE).write_text("{")
    with pytest.raises(StoreError, match="delete it"):
        read_latency(tmp_path)
