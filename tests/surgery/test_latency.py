import json
import sys
import time

import pytest
import torch
from torch import nn

from convswap.errors import UsageError
from convswap.lab.report.view import Timing
from convswap.surgery.latency import Latency, measure_latency


class Recorder(nn.Module):
    """Notes each call, and under which conditions it came."""

    def __init__(self, name, log, milliseconds=0.0):
        super().__init__()
        self.name, self.log, self.seconds = name, log, milliseconds / 1e3

    def forward(self, x):
        self.log.append((self.name, self.training, torch.is_inference_mode_enabled(), torch.get_num_threads()))
        time.sleep(self.seconds)
        return x


def test_orders_models_by_speed_and_quartiles_enclose_the_median():
    log = []
    models = {"slow": Recorder("slow", log, 9.0), "fast": Recorder("fast", log, 3.0)}
    found = measure_latency(models, torch.zeros(1), repeats=7, warmup=1)
    assert list(found) == ["slow", "fast"]
    assert found["slow"].median_ms > found["fast"].median_ms >= 3.0
    for latency in found.values():
        assert latency.q1_ms <= latency.median_ms <= latency.q3_ms
        assert (latency.repeats, latency.threads) == (7, 1)


def test_repetitions_are_interleaved_and_every_order_occurs():
    log = []
    measure_latency({name: Recorder(name, log, 3.0) for name in "abc"}, torch.zeros(1), repeats=30, warmup=1)
    timed = "".join(name for name, *_ in log[6:])  # after a warm-up and a sizing pass each
    rounds = [timed[i : i + 3] for i in range(0, len(timed), 3)]
    assert len(rounds) == 30
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}
    assert len(set(rounds)) == 6, "a model must not always follow the same one"


def test_passes_run_in_eval_and_inference_mode_on_the_asked_threads():
    log = []
    before = torch.get_num_threads()
    model = nn.Sequential(Recorder("a", log, 3.0), nn.BatchNorm2d(2))
    model[1].eval()
    measure_latency({"a": model}, torch.zeros(1, 2, 3, 3), threads=2, repeats=3, warmup=1)
    assert set(log) == {("a", False, True, 2)}
    assert [module.training for module in model.modules()] == [True, True, False]
    assert torch.get_num_threads() == before


def test_threads_are_put_back_when_a_model_fails():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="channels"):
        measure_latency({"conv": nn.Conv2d(3, 3, 1)}, torch.zeros(1, 4, 4, 4), threads=before + 1)
    assert torch.get_num_threads() == before


def test_a_fast_pass_is_timed_in_blocks(monkeypatch):
    log = []
    monkeypatch.setattr(
        sys.modules[measure_latency.__module__], "perf_counter", lambda: 1e-4 * len(log)
    )  # a pass takes 0.1 ms
    measure_latency({"a": Recorder("a", log)}, torch.zeros(1), repeats=3, warmup=1)
    assert len(log) == 1 + 1 + 3 * 20  # warm-up, a look at its length, three blocks of 2 ms


def test_steady_load_is_seen_though_the_quartiles_are_close():
    quiet = Latency(10.0, 9.9, 10.1, 30, 1, fastest_ms=9.0, busy=0.98)
    assert quiet.noise is None
    assert "10.0 times the fastest" in Latency(10.0, 9.9, 10.1, 30, 1, fastest_ms=1.0, busy=0.98).noise
    assert "a processor for only 40% of the time" in Latency(10.0, 9.9, 10.1, 30, 1, fastest_ms=9.0, busy=0.4).noise
    assert Latency(10.0, 9.9, 10.1, 30, 1).noise is None  # what is not known says nothing
    for saved in (slow := Latency(10.0, 9.9, 10.1, 30, 1, busy=0.4), slow.as_dict()):
        assert Timing.of(saved).noisy  # the report marks it, too
    assert not Timing.of(quiet.as_dict()).noisy


def test_processor_time_is_measured():
    class Busy(nn.Module):
        def forward(self, x):
            end = time.process_time() + 0.004
            while time.process_time() < end:
                pass
            return x

    waiting = measure_latency({"a": Recorder("a", [], 5.0)}, torch.zeros(1), repeats=5, warmup=1)["a"]
    working = measure_latency({"a": Busy()}, torch.zeros(1), repeats=5, warmup=1)["a"]
    assert waiting.busy < 0.4
    assert waiting.noisy
    assert working.busy > 2 * waiting.busy  # also where other programs have kept it waiting
    assert working.fastest_ms <= working.median_ms


def test_noisy_says_when_quartiles_are_wide():
    assert Latency(10.0, 9.0, 11.1, 30, 1).noisy
    assert not Latency(10.0, 9.0, 11.0, 30, 1).noisy
    assert json.loads(json.dumps(Latency(10.0, 9.0, 11.0, 30, 1).as_dict()))["noisy"] is False


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"repeats": 2}, {"warmup": 0}])
def test_bad_settings_are_refused_by_name(wrong):
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        measure_latency({"a": nn.Identity()}, torch.zeros(1), **wrong)


def test_nothing_to_measure_is_refused():
    with pytest.raises(UsageError, match="models"):
        measure_latency({}, torch.zeros(1))
