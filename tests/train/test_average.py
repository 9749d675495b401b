from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from convswap.train import evaluate, fit
from convswap.train.average import WeightAverage, held_tensors

from .conftest import make_data, make_model, make_recipe


class Odd(nn.Module):
    """A tied weight, a complex one, and buffers of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 2, bias=False)
        self.b = nn.Linear(2, 2, bias=False)
        self.b.weight = self.a.weight
        self.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def test_the_average_is_that_of_its_formula() -> None:
    model = Odd()
    average = WeightAverage(model, decay=0.3)
    want = {name: tensor.detach().clone() for name, tensor in held_tensors(model).items()}
    for update in range(1, 8):
        with torch.no_grad():
            for tensor in (model.a.weight, model.phase, model.mean):
                tensor.add_(torch.randn_like(tensor))
            model.count += 1
        average.update()
        d = min(0.3, update / (update + 9))
        for name, tensor in held_tensors(model).items():
            want[name] = d * want[name] + (1 - d) * tensor if name != "count" else tensor.clone()
    live = copy.deepcopy(model.state_dict())
    with average.applied():
        torch.testing.assert_close({n: t.detach() for n, t in held_tensors(model).items()}, want)
        assert model.b.weight is model.a.weight
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, live[name]), name


def test_a_tensor_that_never_changes_keeps_its_value() -> None:
    model = nn.Linear(50, 50)
    before = model.weight.detach().clone()
    average = WeightAverage(model, decay=0.999)
    for _ in range(20):
        average.update()
    average.apply()
    assert torch.equal(model.weight, before)


def test_decay_of_nothing_is_the_last_value() -> None:
    plain, averaged = make_model(), make_model()
    fit(plain, make_data(), make_recipe(), seed=0, progress=False, device="cpu")
    fit(averaged, make_data(), make_recipe(ema=1e-30), seed=0, progress=False, device="cpu")
    for (name, a), b in zip(plain.state_dict().items(), averaged.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize("every", [1, 4])
def test_what_is_evaluated_is_what_is_left_in_the_model(every: int) -> None:
    data, model = make_data(), make_model()
    result = fit(model, data, make_recipe(ema=0.9, ema_every=every), seed=0, progress=False, device="cpu")
    assert evaluate(model, data, device="cpu").loss == pytest.approx(result.test_loss)
    plain = make_model()
    fit(plain, data, make_recipe(), seed=0, progress=False, device="cpu")
    assert not torch.equal(plain[0].weight, model[0].weight)
    assert not torch.equal(plain[1].running_mean, model[1].running_mean)  # averaged with the weights
    assert model[1].num_batches_tracked == 9 // every * every  # of 9 steps
