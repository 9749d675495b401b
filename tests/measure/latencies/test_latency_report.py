"""All ways to run a model side by side, and the refusal to give numbers of a noisy machine."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convswap.errors import UsageError
from convswap.measure import latency
from convswap.surgery.latency import Latency

REPORT = sys.modules[latency.__module__]
QUICK: dict[str, Any] = {"repeats": 3, "warmup": 1, "attempts": 1}


def quiet(models: Any, x: Tensor, *, threads: int, **_: int) -> dict[str, Latency]:
    """Instead of a clock: a millisecond an image."""
    return {name: Latency(float(len(x)), 0.95 * len(x), 1.05 * len(x), 3, threads) for name in models}


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())


def test_every_way_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REPORT, "measure_latency", quiet)
    model = network()
    found = latency(model, torch.randn(4, 3, 8, 8), threads=(1, 2), runtimes=("eager",))
    rows = [(t.threads, t.batch, t.runtime, t.fused) for t in found.timings]
    assert rows == [(t, b, "eager", f) for t in (1, 2) for b in (1, 4) for f in (False, True)]
    assert found.find(batch=4, threads=2, fused=True).images_per_second == 1e3
    assert not found.refused
    assert model.training
    assert json.loads(json.dumps(found.as_dict()))["timings"][0]["latency"]["median_ms"] == 1.0
    with pytest.raises(UsageError, match="batch=3, threads=1 was not measured"):
        found.find(batch=3)


def test_a_noisy_machine_gets_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def noisy_once_fused(models: Any, x: Tensor, *, threads: int, **_: int) -> dict[str, Latency]:
        calls.append(list(models))
        return {name: Latency(10.0, 9.0 if name.endswith("False") else 5.0, 10.5, 30, threads) for name in models}

    monkeypatch.setattr(REPORT, "measure_latency", noisy_once_fused)
    found = latency(network(), torch.randn(1, 3, 8, 8), threads=(1,), runtimes=("eager",), attempts=3)
    assert calls == [["eager False", "eager True"], ["eager True"], ["eager True"]]
    assert found.find().latency == Latency(10.0, 9.0, 10.5, 30, 1)
    (refused,) = found.refused
    assert refused.fused
    assert refused.images_per_second is None
    assert "too noisy: the middle half of 30 repetitions spreads over 55% of the median" in str(refused.problem)
    assert "not reported: the machine is too noisy" in str(found)


def test_compiled_and_onnx_compute_the_same() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    x = torch.randn(2, 3, 8, 8)
    model = network().eval()
    with torch.inference_mode():
        expected = model(x)
        for name in ("compiled", "onnx"):
            ready = REPORT._ready(REPORT.BUILDERS[name], model, x, 1)
            assert isinstance(ready, nn.Module), ready
            torch.testing.assert_close(ready(x), expected)


def test_what_cannot_be_built_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REPORT, "measure_latency", quiet)
    monkeypatch.setattr(REPORT, "_ONNX", ("convswap_no_such_package",))
    found = latency(network(), torch.randn(1, 3, 8, 8), threads=(1,), runtimes=("eager", "onnx"), fused=False)
    assert found.find().latency is not None
    assert "convswap_no_such_package not installed" in str(found.find("onnx").problem)


def test_a_model_that_cannot_be_fused_is_still_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REPORT, "measure_latency", quiet)

    class Random(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x)

    model = nn.Sequential(network(), Random())
    found = latency(model, torch.randn(1, 3, 8, 8), threads=(1,), runtimes=("eager",))
    assert found.find().latency is not None
    assert str(found.find(fused=True).problem).startswith("not fused: ")


def test_it_really_measures() -> None:
    before = torch.get_num_threads()
    found = latency(network(), torch.randn(2, 3, 32, 32), threads=(1,), runtimes=("eager",), fused=False, **QUICK)
    assert len(found.timings) == 2
    for timing in found.timings:
        assert (timing.latency is None) == (timing.problem is not None)
    assert torch.get_num_threads() == before


def test_a_models_own_failure_is_raised() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        latency(network(), torch.randn(1, 5, 8, 8), runtimes=("eager",), fused=False, **QUICK)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threads": (0,)}, "threads=0"),
        ({"batches": (True,)}, "batches=True"),
        ({"batches": ()}, r"batches=\(\)"),
        ({"runtimes": ("tpu",)}, "runtimes='tpu'"),
        ({"attempts": 0}, "attempts=0"),
        ({"threads": 1}, "threads=1 is not allowed; give a list"),
        ({"runtimes": "eager"}, "runtimes='eager' is not allowed; give a list"),
        ({"runtimes": ()}, r"runtimes=\(\)"),
        ({"repeats": 3.5, "runtimes": ("eager",)}, "repeats=3.5"),
        ({"model": None}, "model=NoneType"),
        ({"example_input": [1.0]}, "example_input=list"),
    ],
)
def test_bad_arguments_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        latency(**{"model": network(), "example_input": torch.randn(1, 3, 8, 8)} | wrong)


def test_a_model_that_takes_now_long_now_short_gets_no_number() -> None:
    """A real clock: passes of 2 and 20 ms in turn, so the middle half of them spreads over far more than a fifth."""

    class Uneven(nn.Module):
        passes = 0

        def forward(self, x: Tensor) -> Tensor:
            Uneven.passes += 1
            time.sleep(0.02 if Uneven.passes % 2 else 0.002)
            return x

    options: dict[str, Any] = {"threads": (1,), "runtimes": ("eager",), "fused": False, "repeats": 9, "attempts": 2}
    (only,) = latency(Uneven(), torch.zeros(1, 3), **options).timings
    assert only.latency is None
    assert "too noisy" in str(only.problem)
    assert "after 2 attempts" in str(only.problem)
