"""The trained network that a trial's `logit_distillation` listens to: described, and built again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .build import check_file
from .trial import Trial, describe_weights

if TYPE_CHECKING:
    from torch import nn

    from ..data import Data

KINDS = ("saved", "weights", "published")
"""A model saved by convswap; a model by name with a file of weights; a model by name with its published weights."""


def describe_teacher(kind: str, *, file: str | Path | None = None, model: str | None = None) -> dict[str, str | None]:
    """A teacher in the form that a trial holds.

    Args:
        kind: one of `KINDS`.
        file: the saved model, or the weights.
        model: name for `create_model`; for a saved model, the user's function that builds it, if one is needed.

    Raises:
        StoreError: the file cannot be read.
    """
    content: dict[str, Any] = {"file": None, "sha256": None} if file is None else describe_weights(file)
    return {"kind": kind, "model": model, **content}


def build_teacher(trial: Trial, data: Data) -> nn.Module | None:
    """The teacher of a trial, in eval mode, or None.

    Raises:
        DataError: its file is no longer the described one.
        UsageError: its classes are not those of the data.
    """
    from ..models import load

    described = trial.teacher
    if described is None:
        return None
    if described["file"] is not None:
        check_file(described)
    if described["kind"] == "saved":
        return load(str(described["file"]), constructor=described["model"]).eval()
    return _by_name(described, data).eval()


def _by_name(described: dict[str, str | None], data: Data) -> nn.Module:
    from ..models import create_model
    from ..models.weights import load_weights

    name, published = str(described["model"]), described["kind"] == "published"
    # Without weights first: create_model draws a fresh classifier for other classes, and that would teach nothing.
    model = create_model(name, num_classes=data.num_classes, in_channels=data.channels)
    if not published:
        if fresh := load_weights(model, str(described["file"])):
            raise UsageError(
                f"the teacher's weights {described['file']!r} have other classes than the {data.num_classes} of "
                f"{data.name!r} ({', '.join(fresh)} do not fit); name weights that were trained on them"
            )
        return model
    declared = getattr(model, "pretrained_cfg", None) or {}
    classes = declared.get("num_classes") if isinstance(declared, dict) else None
    if classes != data.num_classes:
        found = "an unknown number of" if classes is None else classes
        raise UsageError(
            f"the published weights of the teacher {name!r} are for {found} classes, but {data.name!r} has "
            f"{data.num_classes}; give MODEL:WEIGHTS, or a run that was trained on these data"
        )
    return create_model(name, num_classes=data.num_classes, in_channels=data.channels, pretrained=True)
