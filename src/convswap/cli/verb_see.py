"""`convswap see`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DataError
from .arguments import Background, Channels, DataRoot, EvalSplit, OwnModel, Pretrained, Weights
from .options import given_options
from .output import tell_data
from .saved import Saved, data_of, find_saved, is_folder, open_saved, reading, side_for
from .source import is_path, named_model
from .streams import console

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..data import Data
    from ..lab import Trial
    from ..see import StageClasses

NAME = "see"


@dataclass(frozen=True)
class Source:
    """A model to look at, the data it was trained on if they are there, and the path of its page."""

    name: str
    model: nn.Module
    data: Data | None
    page: Path
    trained: bool = True
    trial: Trial | None = None
    missing: str = ""


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
    model: OwnModel = None,
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
      convswap see runs/bees --model mine:build
    """
    from rich.markup import escape

    from ..see import compare_models, comparison, look, sections, write_page

    with console(stderr=True).status("loading") as status:

        def tell(text: str) -> None:
            status.update(escape(text))

        options: dict[str, Any] = {"channels": channels, "background": background, "eval_split": eval_split}
        given = None if data is None else _load_data(data, data_root, sources[0], options)
        several = len(sources) > 1
        found = [_source(text, model, several, weights, pretrained, classes, given, data_root) for text in sources]
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
    if first.missing and given is None:
        print(f"the run's images were not used: {first.missing}; --data NAME names others")
    print(f"page: {page}")


def _by_name(found: list[Source]) -> dict[str, nn.Module]:
    names = [source.name for source in found]
    return {s.name if names.count(s.name) == 1 else f"{s.name} ({i})": s.model for i, s in enumerate(found, 1)}


def _load_data(name: str, root: Path | None, shown: str, options: dict[str, Any]) -> Data:
    """The images of `--data`, in the size that a saved model was trained with."""
    from ..data import load_data
    from ..models.saved import card_in

    size = None
    if is_folder(name) and Path(shown).exists():
        found = find_saved(Path(shown))
        card = card_in(found.weights)
        size = side_for(name, card)
        options = reading(name, found, card) | given_options(options)
    return load_data(name, root=root, image_size=size, skip_unreadable=True, **options)


def _source(
    text: str,
    own_model: str | None,
    several: bool,
    weights: Path | None,
    pretrained: bool,
    classes: int | None,
    data: Data | None,
    root: Path | None,
) -> Source:
    from ..models.own import is_own
    from ..models.saved import built_by

    path = Path(text)
    if is_path(text):
        run_ = find_saved(path)
        own, missing = (None, "") if data is not None else _data_of(run_, root)
        name = path.name if run_.trial is None else f"{run_.trial.model}, {run_.trial.unit}"
        page = run_.weights.with_name("see.html")
        if several and not is_own(built_by(run_.weights)[0]):
            own_model = None  # --model is for another of them
        return Source(name, open_saved(run_, own_model), own, page, True, run_.trial, missing)
    trained = pretrained or weights is not None
    network = named_model(text, weights, pretrained, classes, data)
    return Source(text, network, None, Path("see.html"), trained)


def _data_of(run_: Saved, root: Path | None) -> tuple[Data | None, str]:
    """The run's data, or the reason why they are not there. They may have moved since: that is no error."""
    try:
        return data_of(run_, root), ""
    except DataError as error:
        return None, str(error)


def _images(source: Source, data: Data | None, count: int) -> tuple[Tensor, Tensor, str]:
    """Images in 0 .. 1, the same images normalised for the model, and their source."""
    import torch

    from ..see import photographs, sample_images

    if data is None:
        shape = _shape(source.model)
        pictures = photographs(count, (shape[1], shape[2]), channels=shape[0])
        where = "crops of two photographs"
    else:
        pictures = sample_images(data, count)
        where = f"test images of {data.name}"
    mean, std = _constants(source.model, pictures.shape[1], data)
    constants = [torch.tensor(values).reshape(1, -1, 1, 1) for values in (mean, std)]
    return pictures, (pictures - constants[0]) / constants[1], where


def _shape(model: nn.Module) -> tuple[int, ...]:
    """Channels, height and width of the model's images, by its card, else as a timm model declares."""
    from ..models.card import card_of
    from ..surgery.observe import example_input_of

    card = card_of(model)
    if card is not None and card.channels is not None and card.image_size is not None:
        return (card.channels, *card.image_size)
    example = example_input_of(model)
    return (3, 224, 224) if example is None else tuple(example.first.shape[1:])


def _constants(model: nn.Module, channels: int, data: Data | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation: those of the model's card, else those that it declares, else the data's."""
    from ..models.card import card_of

    card, declared = card_of(model), getattr(model, "pretrained_cfg", None) or {}
    own = ({} if card is None else card.as_dict(), declared)
    for facts in own:
        mean, std = facts.get("mean") or (), facts.get("std") or ()
        if len(mean) == len(std) == channels:
            return tuple(mean), tuple(std)
    if data is not None:
        return data.mean, data.std
    given = declared.get("mean"), declared.get("std")  # for other channels: their means serve all
    mean, std = (sum(v) / len(v) if v else usual for v, usual in zip(given, (0.5, 0.25), strict=True))
    return (mean,), (std,)


def _print_classes(stages: Sequence[StageClasses]) -> None:
    from rich.table import Table

    from ..see import CLASSES

    table = Table(title="kernel classes", title_justify="left")
    for column in ("stage", "layers", "kernels", *CLASSES):
        table.add_column(column, justify="left" if column in ("stage", "layers") else "right")
    for stage in stages:
        number = "-" if stage.stage is None else str(stage.stage + 1)
        shares = (f"{share:.0%}" for share in stage.shares.values())
        table.add_row(number, stage.role, f"{sum(stage.counts.values()):,}", *shares)
    console(soft_wrap=False).print(table)
