"""`--teacher RUN|MODEL[:WEIGHTS]` and `--distill`: a trained network that teaches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .saved import find_saved
from .source import is_path

if TYPE_CHECKING:
    from ..lab import Trial

PANEL = "Teacher"
Teacher = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        metavar="RUN|MODEL[:WEIGHTS]",
        help="A trained network whose logits are a second target: a run or saved model, or a model by name with a file "
        "of weights or its published ones.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
Distill = Annotated[
    str,
    typer.Option(
        "--distill",
        metavar="mse|kl[:OPTIONS]",
        help="How to listen to it: a distance, and options as in mse:strength=0.2:end=0.3, see `convswap regularizers "
        "logit_distillation`. Default with --teacher: mse.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]


def described_teacher(text: str | None) -> dict[str, str | None] | None:
    """What a trial records of the network that `--teacher` names.

    Raises:
        UsageError: it is neither a run, nor a saved model, nor a model's name, or its weights are not there.
    """
    from ..lab.teacher import describe_teacher
    from ..models.own import is_own
    from ..models.saved import built_by

    if text is None:
        return None
    name, colon, rest = text.rpartition(":")
    if colon and Path(rest).expanduser().is_file() and Path(rest).suffix != ".py":
        return describe_teacher("weights", file=rest, model=name)
    if is_path(text):
        weights = find_saved(Path(text)).weights
        builder = built_by(weights)[0]
        return describe_teacher("saved", file=weights, model=builder if builder and is_own(builder) else None)
    if "/" in rest or Path(rest).suffix in (".pth", ".pt", ".th", ".safetensors", ".bin", ".ckpt", ".tar"):
        raise UsageError(f"--teacher {text}: there is no file {rest!r}; check the path of the weights")
    return describe_teacher("published", model=text)


def taught(trials: list[Trial], teacher: dict[str, str | None] | None) -> list[Trial]:
    """The trials, with the teacher where their recipe listens to one.

    Raises:
        UsageError: none of them does.
    """
    from ..train.preflight import listens

    found = [replace(trial, teacher=teacher) if listens(trial.recipe) else trial for trial in trials]
    if all(trial.teacher is None for trial in found):
        raise UsageError("--teacher: no recipe listens to it; add the regulariser logit_distillation to --regularize")
    return found


def with_teacher(regularize: str, teacher: str | None, distill: str) -> str:
    """The value of `--regularize` with the method that listens to the teacher.

    Raises:
        UsageError: `--distill` without `--teacher`, or both `--distill` and the method itself.
    """
    from ..regularizers import split_list

    if teacher is None and distill:
        raise UsageError(f"--distill {distill}: there is nobody to listen to; name a trained network with --teacher")
    if teacher is None:
        return regularize
    methods = split_list(regularize) if regularize else []
    named = [method for method in methods if method.partition(":")[0] == "logit_distillation"]
    if named and distill:
        raise UsageError(f"--distill {distill} and --regularize {named[0]} say the same; give one of them")
    return regularize if named else ",".join([*methods, f"logit_distillation:{distill or 'mse'}"])
