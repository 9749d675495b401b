"""The network of a trial before its training, and the card of the network after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import DataError, SurgeryError, own_frames
from .mixed import is_mixed
from .network import describe_network
from .trial import BASELINE, Trial, describe_weights

if TYPE_CHECKING:
    from torch import nn

    from ..data import Data
    from ..models import ModelCard


def build_model(trial: Trial, data: Data) -> tuple[nn.Module, dict[str, Any] | None]:
    """The network of a trial before training, and the plan of its swap (None for `conv`).

    Raises:
        DataError: the weights, the parent or the network are no longer the described ones.
        SurgeryError: the network does not accept images like these, or cannot be swapped as described.
    """
    from ..surgery import plan_swap
    from ..surgery.observe import observe

    for given in (trial.weights, trial.parent):
        if given is not None:
            check_file(given)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        model = _start(trial, data)
        _check_network(trial, model)
        example = example_of(data)
        try:
            observe(model, example, [])  # a model for other channels or sizes should fail before the training
        except SurgeryError as error:
            raise SurgeryError(f"{error}{own_frames(error.__cause__ or error)}") from error
        if trial.unit == BASELINE:
            return model, None
        start: Any = trial.start
        how: dict[str, Any] = {"start": start, "example_input": example}
        if is_mixed(trial.unit):
            mixed = plan_swap(model, trial.unit_options, **how)
            return mixed.apply(), json.loads(mixed.to_json())
        plan = plan_swap(model, trial.unit, where=trial.where, **how, **trial.unit_options)
        return plan.apply(), json.loads(plan.to_json())


def _start(trial: Trial, data: Data) -> nn.Module:
    """The network that the swap is applied to: by name, or the parent as it was saved."""
    from ..models import create_model, load

    if trial.parent is not None:
        return load(str(trial.parent["file"]), constructor=trial.model).train()
    return create_model(
        trial.model,
        num_classes=data.num_classes,
        in_channels=data.channels,
        pretrained=trial.pretrained,
        weights=None if trial.weights is None else trial.weights["file"],
        **trial.model_arguments,
    )


def example_of(data: Data) -> torch.Tensor:
    """One black image of the data's shape, (1, C, H, W)."""
    return torch.zeros(1, data.channels, *data.image_size)


def card_of_trial(trial: Trial, data: Data, *, accuracy: float, versions: dict[str, str]) -> ModelCard:
    """What is known of a trained network. Of the data's path only the last part is kept.

    Args:
        trial: the trial.
        data: its data, with the trial's normalization.
        accuracy: on the test images, after the last epoch.
        versions: of the packages that trained it.
    """
    from ..data.folder import FolderImages, resized_side
    from ..models import ModelCard

    kind, _, rest = trial.data.partition(":")
    return ModelCard(
        mean=data.mean,
        std=data.std,
        image_size=data.image_size,
        resize=resized_side(data.test.image_size) if isinstance(data.test, FolderImages) else None,
        channels=data.channels,
        class_names=data.class_names,
        data=f"{kind}:{Path(rest).name}" if rest else kind,
        data_description=None if data.description is None else str(data.description),
        unit=trial.label(),
        recipe=trial.recipe,
        test_accuracy=accuracy,
        versions=versions,
    )


def check_file(described: dict[str, Any]) -> None:
    """Refuse a file whose contents are no longer the described ones."""
    found = describe_weights(described["file"])["sha256"]
    if found != described["sha256"]:
        raise DataError(
            f"weights file {described['file']!r} changed since the trial was described (sha256 {found[:12]}, described "
            f"{described['sha256'][:12]}); restore the file, or describe a new trial"
        )


def _check_network(trial: Trial, model: nn.Module) -> None:
    if trial.network is None:
        return
    found = describe_network(trial.model, model)
    # published weights may bring a setting of their own, which the description without them cannot know
    keys = ("source",) if trial.pretrained else ("source", "structure")
    changed = [key for key in keys if found[key] != trial.network[key]]
    if changed:
        what = " and the ".join(changed)
        raise DataError(
            f"model {trial.model!r} has changed since the trial was described (the {what}); restore it, or describe a "
            "new trial"
        )


def described_network(model: str, data: Data, arguments: dict[str, Any]) -> tuple[nn.Module, dict[str, str | None]]:
    """A network by name for these data, with fresh weights, and its description for a trial."""
    from ..models import create_model

    network = create_model(model, num_classes=data.num_classes, in_channels=data.channels, **arguments)
    return network, describe_network(model, network)
