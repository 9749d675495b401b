"""Every method in a training: it changes it, resumes bit by bit, and leaves the network without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from regularizer_hosts import make_host as make_model
from torch import nn

from convswap.data import Data
from convswap.errors import UsageError
from convswap.regularizers import REGULARIZERS, Active, Setting
from convswap.train import Recipe, fit, regularized
from convswap.train.regularization import Regularization, check_regularizers, setting_of

from .conftest import make_data, make_recipe

OPTIONS = {
    "cutout": "cutout:4",
    "label_smoothing": "label_smoothing:0.2",
    "max_pool_dropout": "max_pool_dropout:evaluation=max",
}


def recipe_of(name: str, epochs: int = 2) -> Recipe:
    return regularized(make_recipe(epochs=epochs), [OPTIONS.get(name, name)])


def teacher_of(name: str) -> nn.Module | None:
    return make_model(seed=5) if name == "logit_distillation" else None


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten().double() for value in model.state_dict().values()])


def train(
    recipe: Recipe, folder: Path | None = None, data: Data | None = None, teacher: nn.Module | None = None
) -> nn.Module:
    model = make_model()
    how = {"directory": folder, "progress": False, "device": "cpu", "teacher": teacher}
    fit(model, data or make_data(), recipe, seed=0, **how)  # type: ignore[arg-type]
    return model


class Stopped(Exception):
    pass


def stop_after(epochs: int):
    def stop(row: dict[str, object]) -> None:
        if row["epoch"] == epochs:
            raise Stopped

    return stop


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    return weights(train(make_recipe(epochs=2)))


@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_method_changes_the_training_and_resumes_bit_by_bit(name: str, plain: torch.Tensor, tmp_path: Path) -> None:
    whole = train(recipe_of(name), tmp_path / "whole", teacher=teacher_of(name))
    assert not torch.equal(weights(whole), plain)
    assert torch.isfinite(weights(whole)).all()
    part = make_model()
    kept = {"directory": tmp_path / "part", "progress": False, "device": "cpu", "seed": 0, "teacher": teacher_of(name)}
    with pytest.raises(Stopped):
        fit(part, make_data(), recipe_of(name), on_epoch=stop_after(1), **kept)  # type: ignore[arg-type]
    resumed = make_model(seed=3)
    result = fit(resumed, make_data(), recipe_of(name), **kept)  # type: ignore[arg-type]
    assert result.resumed_after == 1
    assert torch.equal(weights(resumed), weights(whole))
    lines = [(tmp_path / run / "metrics.jsonl").read_text().splitlines()[-1] for run in ("whole", "part")]
    assert len({line.partition('"learning_rate"')[0] for line in lines}) == 1


@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_method_leaves_no_trace(name: str) -> None:
    before = torch.get_rng_state()
    trained, untouched = train(recipe_of(name, epochs=1), teacher=teacher_of(name)), make_model()
    torch.set_rng_state(before)
    assert list(trained.state_dict()) == list(untouched.state_dict())
    assert [type(m) for m in trained.modules()] == [type(m) for m in untouched.modules()]
    for module in trained.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_method_is_checked_before_a_training(name: str) -> None:
    model = make_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    check_regularizers(recipe_of(name), model, make_data(), teacher_of(name))
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_frozen_part_is_seen_by_the_check() -> None:
    recipe = regularized(make_recipe(freeze="first"), ["jocor"])
    with pytest.raises(UsageError, match="freeze nothing"):
        check_regularizers(recipe, make_model(), make_data())


class Watched(Active):
    def __init__(self, fails: bool = False) -> None:
        self.gone, self.fails = 0, fails

    def detach(self) -> None:
        self.gone += 1
        if self.fails:
            raise RuntimeError("broken")


def test_all_are_detached_although_one_fails() -> None:
    regularization = Regularization(make_recipe(), make_model(), setting_of(make_data(), make_recipe()))
    parts = {"a": Watched(), "b": Watched(fails=True), "c": Watched()}
    regularization._active = dict(parts)
    with pytest.raises(RuntimeError, match="broken"):
        regularization.detach()
    assert [part.gone for part in parts.values()] == [1, 1, 1]
    regularization.detach()
    assert [part.gone for part in parts.values()] == [1, 1, 1]


def test_the_setting_is_that_of_data_and_recipe() -> None:
    setting = setting_of(make_data(count=10), make_recipe(batch_size=16, epochs=7), seed=4)
    assert setting == Setting(
        num_classes=3, channels=1, image_size=(8, 8), batch_size=10, epochs=7, seed=4, wrap=setting.wrap
    )
