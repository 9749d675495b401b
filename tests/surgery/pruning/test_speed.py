"""A target of latency, by a clock that only multiply-accumulates move."""

from __future__ import annotations

import pytest
import torch

import convswap
from convswap.errors import SurgeryError
from convswap.surgery import latency
from convswap.surgery.macs import count_macs
from convswap.surgery.pruning import plan_prune
from convswap.surgery.pruning import speed as module

pytest.importorskip("torch_pruning")
EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return convswap.create_model("cifar_resnet8", num_classes=10).eval()


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A pass takes a tenth of the wide network's MACs, whatever is pruned, and its own MACs."""
    fixed = 0.1 * count_macs(network(), EXAMPLE)
    noise = {"text": None}

    def measure(models, inputs, *, threads, repeats):
        found = {}
        for name, each in models.items():
            ms = fixed + count_macs(each, EXAMPLE)
            found[name] = latency.Latency(ms, ms, ms, repeats, threads, ms, 0.2 if noise["text"] else 1.0)
        return found

    monkeypatch.setattr(module, "measure_latency", measure)
    return noise


def test_the_widest_network_that_is_fast_enough():
    plan = plan_prune(network(), criterion="l1", latency=0.6, example_input=EXAMPLE)
    # (0.1 + share) / 1.1 = 0.6, and the share is found to one hundredth
    assert 0.53 <= plan.macs_after / plan.macs_before <= 0.56
    assert plan.speed.after_ms <= 0.6 * plan.speed.before_ms
    assert plan.speed.images == 2
    assert "to 60.0% of the latency" in str(plan)
    assert "for 2 images on" in str(plan)
    assert plan.as_dict()["speed"]["noise"] is None
    assert plan.apply()(EXAMPLE).shape == (2, 10)


def test_a_noisy_machine_is_said(clock):
    clock["text"] = "busy"
    text = str(plan_prune(network(), criterion="l1", latency=0.6, example_input=EXAMPLE))
    assert "not to be trusted: this program had a processor for only 20% of the time" in text


def test_a_share_out_of_reach_is_refused_with_what_remains():
    with pytest.raises(SurgeryError, match=r"latency=0\.1 cannot be reached: 0\.\d+ remains at .* of the MACs \(macs="):
        plan_prune(network(), criterion="l1", latency=0.1, example_input=EXAMPLE)


def test_the_cap_bounds_a_share_of_latency_too():
    images, labels = torch.randn(16, 3, 16, 16), torch.arange(16) % 10
    with pytest.raises(SurgeryError, match="is below the network's cap"):
        plan_prune(network(), [(images, labels)], latency=0.3, tau=1e-9)


def test_other_targets_measure_nothing():
    assert plan_prune(network(), criterion="l1", macs=0.6, example_input=EXAMPLE).speed is None
