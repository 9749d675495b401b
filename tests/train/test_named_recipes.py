"""Every recipe by name: its sources are complete, and its numbers are those of its source."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from convswap.errors import UsageError
from convswap.train import NAMED_RECIPES, Recipe, describe_recipe, named_recipe
from convswap.train.recipes import named
from convswap.train.recipes.registry import TECHNICAL

PAGE = Path(__file__).parents[2] / "docs/training.md"


@pytest.mark.parametrize("name", NAMED_RECIPES)
def test_every_field_off_its_default_has_a_source(name: str) -> None:
    found = named_recipe(name)
    recipe, default = found.recipe(), Recipe()
    off = {f.name for f in fields(Recipe) if getattr(recipe, f.name) != getattr(default, f.name)}
    first = {f.name for f in fields(Recipe) if not f.metadata} - set(TECHNICAL)
    assert off | first <= found.sources.keys()
    assert all(len(text) > 10 for text in found.sources.values())
    assert [row[0] for row in found.rows()] == [f.name for f in fields(Recipe) if f.name in found.sources]


@pytest.mark.parametrize("name", NAMED_RECIPES)
def test_every_recipe_takes_a_length_and_describes_itself(name: str) -> None:
    found = named_recipe(name)
    assert found.build(epochs=3).epochs == 3
    assert found.build.__doc__
    said = describe_recipe(found.recipe().as_dict())
    assert name in said.split(" or ")
    first = said.partition(" or ")[0]
    assert describe_recipe(found.recipe().as_dict() | {"clip_norm": 7.0}) == f"{first} with clip_norm=7.0"


def test_the_page_names_every_recipe_with_its_epochs() -> None:
    rows = re.findall(r"^\| (`.*?) \| .*? \| ([\d, ]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = {}
    for names, epochs in rows:
        told |= dict(zip(re.findall(r"`(\w+)`", names), map(int, epochs.split(",")), strict=True))
    assert told == {name: found.recipe().epochs for name, found in NAMED_RECIPES.items()}


def test_the_page_names_every_field() -> None:
    knobs = PAGE.read_text(encoding="utf-8").partition("## Knobs")[2]
    described = {"epochs", "batch_size", "learning_rate", "nesterov", "final_learning_rate"}  # plain words
    missing = {field.name for field in fields(Recipe) if f"`{field.name}`" not in knobs} - described
    assert not missing


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({}, "gives no source of epochs=30"),
        ({"epochs epochs": "x"}, "two sources of 'epochs'"),
        ({"epoch": "x"}, "unknown recipe field 'epoch'"),
    ],
)
def test_a_recipe_without_sources_is_refused(sources: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        named("without", what_for="nothing", sources=sources)(Recipe)
    assert "without" not in NAMED_RECIPES


def test_a_name_is_taken_once() -> None:
    sources = dict(named_recipe("small_image").sources)
    for name in ("auto", "small_image"):
        with pytest.raises(UsageError, match="exists already"):
            named(name, what_for="the same", sources=sources)(Recipe)
    with pytest.raises(UsageError, match=r"unknown recipe 'denset'; did you mean 'densenet'"):
        named_recipe("denset")


def rates(name: str, steps_per_epoch: int) -> list[float]:
    """The learning rate of each epoch's first step."""
    recipe = named_recipe(name).recipe()
    total = recipe.epochs * steps_per_epoch
    return [recipe.learning_rate_at(epoch * steps_per_epoch, total) for epoch in range(recipe.epochs)]


def test_published_steps_fall_in_their_epochs() -> None:
    assert rates("cifar_paper_200", 390) == pytest.approx([0.1] * 100 + [0.01] * 50 + [0.001] * 50)
    assert rates("minnet", 390) == rates("cifar_paper_200", 390)
    assert rates("densenet", 781) == pytest.approx([0.1] * 150 + [0.01] * 75 + [0.001] * 75)
    pide = rates("pide", 500)
    assert pide[0] == pytest.approx(0.01, rel=0.02)
    assert pide[1:] == pytest.approx([0.1] * 79 + [0.01] * 40 + [0.001] * 40 + [1e-4] * 20 + [1e-5] * 20)
    assert rates("mobilenetv2", 100)[100] == pytest.approx(0.045 * 0.98**100)
    paper = named_recipe("cifar_paper").recipe()
    assert paper.learning_rate_at(32_000, 64_000) == pytest.approx(0.01)
    assert paper.learning_rate_at(48_000, 64_000) == pytest.approx(0.001)
    assert paper.epochs == round(64_000 * 128 / 50_000)


def test_airbench_in_the_terms_of_the_mean_loss() -> None:
    """Its step is lr * (sum of gradients + wd / lr * w): the same numbers for a mean over 1024 images."""
    recipe = named_recipe("cifar_fast").recipe()
    kilostep = 1024 * (1 + 1 / (1 - 0.85))
    assert recipe.learning_rate == pytest.approx(1024 * 11.5 / kilostep, rel=1e-3)
    assert recipe.learning_rate * recipe.weight_decay == pytest.approx(0.0153 * 1024 / kilostep, rel=1e-3)


def test_the_average_of_torchvisions_script() -> None:
    recipe = named_recipe("imagenet_torchvision").recipe()
    adjust = 8 * 128 * 32 / 600
    assert recipe.ema == pytest.approx(1 - min(1.0, (1 - 0.99998) * adjust))
