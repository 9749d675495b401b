"""`convswap see`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .arguments import Background, Channels, DataRoot, EvalSplit, Pretrained, Weights
from .output import tell_data
from .saved import data_of, find_saved, load_saved

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..data import Data
    from ..lab import Trial
    from ..see import StageClasses

NAME = "see"


@dataclass(frozen=True)
class Source:
    """A model to look at, the data it was trained on if known, and the path of its page."""

    name: str
    model: nn.Module
    data: Data | None
    page: Path
    trained: bool = True
    trial: Trial | None = None


def run(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|MODEL...",
            help="A trial's folder, a .safetensors file of convswap.save, or a model's name. The first is shown whole, "
            "others beside it.",
        ),
    ],
    weights: Weights = None,
    pretrained: Pretrained = False,
    classes: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Classes of a named model. Default: the data's."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Data set of the images. Default: the run's, else crops of two photographs."),
    ] = None,
    images: Annotated[int, typer.Option(min=4, metavar="N", help="How many images.")] = 32,
    layer: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Receptive field of this layer; repeat for several.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The page. Default: see.html beside a run.")] = None,
    data_root: DataRoot = None,
    channels: Channels = "auto",
    background: Background = "white",
    eval_split: EvalSplit = "auto",
) -> None:
    """Show what a network learned: kernels, spectra, receptive fields, feature reuse, attributions, in one HTML page.

    \b
    Examples:
      convswap see convswap-lab/trials/0f3a5d6c7b8e9a01
      convswap see mobilenetv3_small_100 --pretrained
      convswap see cifar_resnet20 --weights resnet20.th --data cifar10
    """
    from rich.console import Console
    from rich.markup import escape

    from ..see import compare_models, comparison, look, sections, write_page

    with Console(stderr=True).status("loading") as status:

        def tell(text: str) -> None:
            status.update(escape(text))

        given = None if data is None else _load_data(data, data_root, channels, background, eval_split)
        found = [_source(text, weights, pretrained, classes, given, data_root) for text in sources]
        first = found[0]
        used = given or first.data
        pictures, normalised, where = _images(first, used, images)
        seen = look(first.model, normalised, name=first.name, layers=layer, tell=tell)
        parts = sections(seen, pictures, () if used is None else used.class_names)
        if len(found) > 1:
            beside = compare_models(_by_name(found), normalised, tell=tell)
            parts.insert(0, comparison(beside))
            seen.notes.extend(beside.problems)
        facts: tuple[str, ...] = (f"{seen.images} images: {where}", f"{pictures.shape[-2]}x{pictures.shape[-1]} pixels")
        if used is not None and used.description is not None:
            facts = (*facts, str(used.description))
        if not first.trained:
            facts = (*facts, "weights drawn at random, not trained")
        title = f"What {first.name} sees"
        page = write_page(out or first.page, parts, title=title, facts=facts, notes=seen.notes, tell=tell)
    if used is not None:
        tell_data(used)
    _print_classes(seen.classes)
    for note in seen.notes:
        print(note)
    print(f"page: {page}")


def _by_name(found: list[Source]) -> dict[str, nn.Module]:
    names = [source.name for source in found]
    return {s.name if names.count(s.name) == 1 else f"{s.name} ({i})": s.model for i, s in enumerate(found, 1)}


def _load_data(name: str, root: Path | None, channels: str, background: str, eval_split: str) -> Data:
    from ..data import load_data

    return load_data(
        name, root=root, skip_unreadable=True, channels=channels, background=background, eval_split=eval_split
    )


def _source(
    text: str, weights: Path | None, pretrained: bool, classes: int | None, data: Data | None, root: Path | None
) -> Source:
    path = Path(text)
    if path.exists():
        run_ = find_saved(path)
        own = None if data is not None else data_of(run_, root)
        name = path.name if run_.trial is None else f"{run_.trial.model}, {run_.trial.unit}"
        return Source(name, load_saved(run_.weights, None), own, run_.weights.with_name("see.html"), True, run_.trial)
    if "/" in text or text.endswith(".safetensors"):
        raise UsageError(f"RUN {text}: does not exist; give a trial's folder, a .safetensors file or a model's name")
    trained = pretrained or weights is not None
    return Source(text, _named(text, weights, pretrained, classes, data), None, Path("see.html"), trained)


def _named(name: str, weights: Path | None, pretrained: bool, classes: int | None, data: Data | None) -> nn.Module:
    from ..models import create_model

    channels = 3 if data is None else data.channels
    count = classes or (data.num_classes if data is not None else 10 if name.startswith("cifar_") else 1000)
    model = create_model(name, num_classes=count, in_channels=channels, pretrained=pretrained, weights=weights)
    return model.eval()


def _images(source: Source, data: Data | None, count: int) -> tuple[Tensor, Tensor, str]:
    """Images in 0 .. 1, the same images normalised for the model, and their source."""
    import torch

    from ..see import photographs, sample_images
    from ..surgery.observe import example_input_of

    declared = getattr(source.model, "pretrained_cfg", None) or {}
    if data is None:
        example = example_input_of(source.model)
        shape = (3, 224, 224) if example is None else tuple(example.shape[1:])
        pictures = photographs(count, (shape[1], shape[2]), channels=shape[0])
        mean, std = declared.get("mean", (0.5,)), declared.get("std", (0.25,))
        where = "crops of two photographs"
    else:
        pictures = sample_images(data, count)
        mean, std = _constants(source, declared, data)
        where = f"test images of {data.name}"
    constants = [torch.tensor(values).reshape(1, -1, 1, 1) for values in (mean, std)]
    if constants[0].shape[1] not in (1, pictures.shape[1]):
        constants = [values.mean(1, keepdim=True) for values in constants]
    return pictures, (pictures - constants[0]) / constants[1], where


def _constants(
    source: Source, declared: dict[str, tuple[float, ...]], data: Data
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation: a run's own, else those that the model declares, else the data's."""
    if source.trial is not None:
        own = source.trial.normalization
        return (data.mean, data.std) if own is None else (tuple(own["mean"]), tuple(own["std"]))
    fits = len(declared.get("mean", ())) == data.channels
    return (declared["mean"], declared["std"]) if fits else (data.mean, data.std)


def _print_classes(stages: Sequence[StageClasses]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..see import CLASSES

    table = Table(title="kernel classes", title_justify="left")
    for column in ("stage", "layers", "kernels", *CLASSES):
        table.add_column(column, justify="left" if column in ("stage", "layers") else "right")
    for stage in stages:
        number = "-" if stage.stage is None else str(stage.stage + 1)
        shares = (f"{share:.0%}" for share in stage.shares.values())
        table.add_row(number, stage.role, f"{sum(stage.counts.values()):,}", *shares)
    Console(soft_wrap=False).print(table)
