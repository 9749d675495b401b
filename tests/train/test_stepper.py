"""Accumulated and clipped gradients, and every knob through an interrupted training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from convswap.errors import UsageError
from convswap.train import fit

from .conftest import make_data, make_recipe
from .test_checkpoint import Stop, assert_same, run, scores


def plain_model() -> nn.Sequential:
    """Without BatchNorm, whose statistics are those of a part of the batch, and without dropout."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3)).double()


class Wide(nn.Module):
    """A network in float64 on images in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain_model()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images.double())


@pytest.mark.parametrize("parts", [2, 4, 16])
@pytest.mark.parametrize("knob", [{}, {"clip_norm": 0.2}, {"class_weights": "balanced"}, {"loss": "squared_hinge"}])
def test_parts_add_up_to_the_batch(parts: int, knob: dict[str, Any]) -> None:
    smoothing = {"label_smoothing": 0.0} if "loss" in knob else {}
    recipe = make_recipe(**knob, **smoothing)
    whole, pieces = Wide(), Wide()
    first = fit(whole, make_data(), recipe, seed=0, progress=False, device="cpu")
    second = fit(pieces, make_data(), replace(recipe, accumulate=parts), seed=0, progress=False, device="cpu")
    for (name, a), b in zip(whole.state_dict().items(), pieces.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10, msg=name)
    for a, b in zip(first.history, second.history, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-6)
        assert a["train_accuracy"] == b["train_accuracy"]


def test_a_small_data_set_that_cannot_be_divided_is_named() -> None:
    recipe = make_recipe(batch_size=64, accumulate=4)  # 50 images make a batch of 50
    with pytest.raises(UsageError, match="accumulate=4 does not divide the 50 images"):
        fit(Wide(), make_data(), recipe, seed=0, progress=False, device="cpu")


def test_gradients_are_no_longer_than_the_norm() -> None:
    norms = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            gradients = [p.grad for group in self.param_groups for p in group["params"]]
            norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))
            return super().step(closure)

    from convswap.train import loop

    for limit in (None, 0.05):
        norms.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "build_optimizer", lambda m, *_: Watched(m.parameters(), lr=0.1))
            fit(Wide(), make_data(), make_recipe(clip_norm=limit), seed=0, progress=False, device="cpu")
        assert len(norms) == 9
        assert (max(norms) <= 0.05 * 1.0001) == (limit is not None)


KNOBS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw"},
    "rmsprop": {"optimizer": "rmsprop"},
    "rmsprop_tf": {"optimizer": "rmsprop_tf"},
    "lamb": {"optimizer": "lamb"},
    "poly": {"schedule": "poly"},
    "one_cycle": {"schedule": "one_cycle", "initial_learning_rate": 0.04},
    "clip_norm": {"clip_norm": 0.5},
    "accumulate": {"accumulate": 4},
    "ema": {"ema": 0.9, "ema_every": 2},
    "layer_decay": {"layer_decay": 0.5},
    "norm_bias_scale": {"norm_bias_scale": 8.0, "decay_all": True},
    "freeze": {"freeze": "[01]"},
    "patience": {"patience": 2},
    "patience and ema": {"patience": 2, "ema": 0.9},
    "class_weights": {"class_weights": "balanced"},
    "sampling": {"sampling": "balanced"},
    "flip_mode": {"flip_mode": "alternating"},
    "loss": {"loss": "binary_cross_entropy"},
    "all": {"optimizer": "lamb", "accumulate": 2, "clip_norm": 1.0, "ema": 0.9, "freeze": "0", "sampling": "balanced"},
}


@pytest.mark.parametrize("stop_after", [1, 3])
@pytest.mark.parametrize("knob", KNOBS)
def test_every_knob_resumes_bit_exactly(tmp_path, knob: str, stop_after: int) -> None:
    recipe = make_recipe(epochs=4, crop_padding=1, learning_rate=0.05, **KNOBS[knob])
    data = replace(make_data(), flip=True, validation=make_data(count=30).train)
    whole, expected = run(tmp_path / "whole", recipe=recipe, data=data)
    with pytest.raises(Stop):
        run(tmp_path / "broken", recipe=recipe, data=data, stop_after=stop_after)
    resumed, result = run(tmp_path / "broken", recipe=recipe, data=data)
    assert result.resumed_after == stop_after
    assert_same(whole, resumed)
    assert scores(result.history) == scores(expected.history)
    again, result = run(tmp_path / "broken", recipe=recipe, data=data)
    assert result.resumed_after == len(result.history)
    assert_same(whole, again)
