from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convswap.data import ArrayImages
from convswap.errors import DataError, UsageError
from convswap.train import evaluate, precision
from convswap.train.evaluation import evaluation_batch_size

from .conftest import make_data, make_model


def test_it_equals_one_forward_pass(data, model) -> None:
    found = evaluate(model, data.test, data, batch_size=4, device="cpu")
    pixels = (data.test.images.float() / 255 - 0.3) / 0.25
    with torch.no_grad():
        logits = model.eval()(pixels)
    assert torch.equal(found.predictions, logits.argmax(1))
    assert found.accuracy == (logits.argmax(1) == data.test.labels).double().mean().item()
    assert found.loss == pytest.approx(F.cross_entropy(logits, data.test.labels).item(), rel=1e-5)


def test_modes_statistics_and_generators_stay(data, model) -> None:
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    evaluate(model, data.test, data, device="cpu")
    assert model.training
    assert not model[1].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_come_back_after_an_error(data) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 3))
    with pytest.raises(RuntimeError):
        evaluate(model, data.test, data, device="cpu")
    assert model.training


def test_bad_arguments_are_named(data, model) -> None:
    with pytest.raises(UsageError, match="batch_size=0"):
        evaluate(model, data.test, data, batch_size=0)
    with pytest.raises(UsageError, match="precision='half'"):
        evaluate(model, data.test, data, precision="half")
    with pytest.raises(DataError, match="no images"):
        evaluate(model, ArrayImages(data.test.images[:0], data.test.labels[:0]), data)


def test_large_images_come_in_smaller_batches() -> None:
    data = make_data()
    assert evaluation_batch_size(data) == 512
    assert evaluation_batch_size(replace(data, image_size=(224, 224))) == 83
    assert evaluation_batch_size(replace(data, image_size=(4096, 4096))) == 1


@pytest.mark.parametrize(("fast", "wanted"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_follows_the_hardware(monkeypatch, fast, wanted) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    assert precision.resolve_precision("auto", torch.device("cpu")) == wanted
    assert precision.resolve_precision("fp32", torch.device("cpu")) == "fp32"
    assert precision.resolve_precision("bf16", torch.device("cpu")) == "bf16"
    assert precision.resolve_precision("auto", torch.device("mps")) == "fp32"


def test_bf16_predictions_are_close(data) -> None:
    model = make_model()
    exact, rounded = (evaluate(model, data.test, data, precision=p, device="cpu") for p in ("fp32", "bf16"))
    assert rounded.loss == pytest.approx(exact.loss, rel=2e-2)
