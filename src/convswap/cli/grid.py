"""Turning a command line into trials. Every mistake is found before the first training starts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, check_whole
from .options import absolute_data, parse_settings

if TYPE_CHECKING:
    from torch import nn

    from ..data import Data
    from ..lab import Trial
    from ..train import Recipe


@dataclass(frozen=True)
class Parent:
    """A saved model that a training goes on from.

    Attributes:
        described: what a trial records of it.
        model: the name of its constructor.
        network: the model.
        data: the name of the data to train on: the run's unless others are named.
        image_size: the size that they are brought to.
        reading: the options of `load_data` by which they are read.
    """

    described: dict[str, str | None]
    model: str
    network: nn.Module
    data: str
    image_size: int | None
    reading: dict[str, str]


def chosen_recipe(
    data: Data,
    *,
    name: str,
    trained: bool,
    settings: Sequence[str] | None = None,
    compile: bool = False,
    regularize: str = "",
    **flags: Any,
) -> Recipe:
    """The recipe of this name (`"auto"`: the one that suits the data), changed as the command line says.

    Args:
        data: what is trained on.
        name: the recipe's.
        trained: does the training start from trained weights?
        settings: fields as `"ema=0.999"`, in JSON or as bare words.
        compile: run the model through `torch.compile`.
        regularize: the names of `--regularize`.
        flags: the fields that have an option of their own, None where it was not given.

    Raises:
        UsageError: there is no such recipe or field, or a field is given twice.
    """
    from ..regularizers import split_list
    from ..train import default_recipe, named_recipe, regularized

    given = {field: value for field, value in flags.items() if value is not None}
    given |= {"compile": True} if compile else {}
    methods = split_list(regularize) if regularize else None
    taken = given | ({} if methods is None else {"regularize": regularize})
    for field, value in parse_settings(settings or []).items():
        if field in taken:
            option = field.replace("_", "-")
            raise UsageError(f"--set {field}={value!r} and --{option} {taken[field]!r} say the same; give one of them")
        given[field] = value
    length = {"epochs": check_whole("epochs", given["epochs"])} if "epochs" in given else {}
    if name == "auto":
        recipe = default_recipe(data, pretrained=trained, **length)
    else:
        recipe = named_recipe(name).build(**length)
    recipe = replace(recipe, **given)
    return recipe if methods is None else regularized(recipe, methods)


def make_trials(
    models: list[str],
    units: list[str],
    options: dict[str, dict[str, Any]],
    seeds: range,
    *,
    where: dict[str, str | None],
    data: Data,
    image_size: int | None,
    recipe: Recipe,
    weights: Path | None,
    pretrained: bool,
    normalization: str,
    parent: Parent | None = None,
) -> list[Trial]:
    """Every model with every unit and every seed. Seeds vary slowest, so that a stopped grid is still fair."""
    from ..lab import Trial, describe_weights
    from ..lab.build import described_network
    from ..lab.network import describe_network

    starts = {"--weights": weights is not None, "--pretrained": pretrained, "--from": parent is not None}
    if sum(starts.values()) > 1:
        raise UsageError(
            f"{' and '.join(name for name, given in starts.items() if given)} exclude each other; give one"
        )
    trained = any(starts.values())
    described = None if weights is None else describe_weights(weights)
    constants, networks = {}, {}
    for model in models:
        if parent is None:
            network, networks[model] = described_network(model, data, {})
        else:
            network, networks[model] = parent.network, describe_network(model, parent.network)
        constants[model] = _normalization(normalization, network, data, weights, trained, parent is not None)
    return [
        Trial(
            model=model,
            unit=unit,
            unit_options=options[unit],
            where=where[unit],
            start="warm" if trained else "fresh",
            data=absolute_data(data.name),
            data_fingerprint=data.fingerprint,
            data_options=dict(data.options),
            image_size=image_size,
            recipe=recipe.as_dict(),
            seed=seed,
            weights=described,
            pretrained=pretrained,
            normalization=constants[model],
            network=networks[model],
            parent=None if parent is None else parent.described,
        )
        for seed in seeds
        for model in models
        for unit in units
    ]


def _normalization(
    choice: str, network: nn.Module, data: Data, weights: Path | None, trained: bool, continued: bool
) -> dict[str, list[float]] | None:
    from ..lab import Trial
    from ..lab.normalization import choose_normalization
    from ..models.card import card_of

    card = card_of(network)
    if choice == "auto" and continued and card is not None and card.mean is not None and card.std is not None:
        return {"mean": list(card.mean), "std": list(card.std)}
    description = weights.with_name("trial.json") if weights is not None else None
    if choice == "auto" and description is not None and description.is_file():
        # Weights from a run of convswap keep the constants they were trained with.
        return Trial.from_json(description.read_text(encoding="utf-8")).normalization
    return choose_normalization(choice, network, data, trained=trained)


def check(trials: list[Trial], data: Data, device: str) -> None:
    """Build every network once, with swap, weights and regularisers, and check its training before the first starts."""
    from ..lab.build import build_model
    from ..lab.teacher import build_teacher
    from ..train import Recipe
    from ..train.precision import resolve_device
    from ..train.preflight import check_training
    from ..train.regularization import check_regularizers

    resolve_device(device)
    for trial in {(t.model, t.unit, str(t.recipe)): t for t in reversed(trials)}.values():
        network, _ = build_model(trial, data)
        recipe, teacher = Recipe.from_dict(trial.recipe), build_teacher(trial, data)
        check_training(network, data, recipe, device, teacher)
        check_regularizers(recipe, network, data, teacher)


@contextmanager
def suitable_process(data: Data) -> Iterator[None]:
    """Set the process up for training: freed memory is kept, and tiny images get one thread.

    `OMP_NUM_THREADS`, if set, decides the number of threads instead. A step on 8 x 8 pixels takes less time than
    threads need to synchronise. On a busy machine they also wait for one another. (The embedded comparison took 39 s
    with one thread and 380 s with two on two busy cores.)
    """
    import torch

    from ..train.allocator import keep_freed_memory

    keep_freed_memory()
    before = torch.get_num_threads()
    if max(data.image_size) < 16 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
