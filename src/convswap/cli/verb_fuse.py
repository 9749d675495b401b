"""`convswap fuse`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DataError, UsageError
from .arguments import DataRoot, OwnModel
from .output import print_accuracy, print_latency
from .saved import data_for, data_of, find_saved, open_saved
from .source import example_for

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..data import Data
    from ..models import ModelCard
    from .saved import Saved

NAME = "fuse"


def run(
    source: Annotated[
        Path, typer.Argument(metavar="RUN", help="A trial's folder, or a .safetensors file of convswap.save.")
    ],
    image_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="PIXELS", help="Side of the input. Default: the run's, else the model's."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Measure test accuracy on this data set. Default: the run's, if it is there."
        ),
    ] = None,
    evaluate: Annotated[bool, typer.Option(help="Measure test accuracy before and after.")] = True,
    latency: Annotated[bool, typer.Option(help="Measure latency before and after.")] = True,
    recalibrate: Annotated[
        bool,
        typer.Option(
            "--recalibrate",
            help="First re-estimate BatchNorm statistics on training images. Use it for units that train with random "
            "draws, such as circle_mix.",
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The fused model. Default: fused.safetensors beside the run's.")
    ] = None,
    model: OwnModel = None,
    data_root: DataRoot = None,
) -> None:
    """Turn a trained model into plain convolutions, prove it equal, and save it beside the original.

    No data are needed: the file knows the size of the images. Where the run's data are there, accuracy is measured.

    Units are folded into convolutions, and BatchNorm into the convolution before it. Both models then run on the same
    input in float64. A difference above 1e-9 is an error.

    \b
    Examples:
      convswap fuse convswap-lab/trials/0f3a5d6c7b8e9a01
      convswap fuse model.safetensors --image-size 128
      convswap fuse runs/bees --model mine:build --data imagefolder:/mnt/bees --out bees-fused.safetensors
    """
    from ..models import save
    from ..models.card import card_of
    from ..surgery import plan_fuse

    found = find_saved(source)
    target = _target(found, out)
    network = open_saved(found, model)
    card = card_of(network)
    images, missing = _data(found, card, data, data_root) if evaluate or recalibrate else (None, "")
    if recalibrate and images is None:
        raise UsageError(f"--recalibrate needs images: {missing or f'{source} is a file'}; name them with --data NAME")
    example = example_for(network, card, image_size)
    plan = plan_fuse(network, example, recalibrate=_some_images(images) if recalibrate and images else None)
    fused = plan.apply().eval()
    save(fused, target)
    print(plan)
    if latency:
        print_latency(network, fused, example)
    if evaluate and images is not None:
        print_accuracy(images, network, fused)
    if evaluate and missing:
        print(f"test accuracy was not measured: {missing}; --data NAME measures it")
    if not recalibrate and _draws_at_random(network):
        print("the unit trained with random draws: --recalibrate fits BatchNorm to the kernel that inference uses")
    print(f"fused model: {target}")


def _target(found: Saved, out: Path | None) -> Path:
    if out is None:
        return found.output
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; name a file, such as {out / found.output.name}")
    if out.exists() and out.samefile(found.weights):
        raise UsageError(f"--out {out}: is the original, which is kept; name another file")
    return out


def _data(found: Saved, card: ModelCard | None, name: str | None, root: Path | None) -> tuple[Data | None, str]:
    """The images to measure on, or the reason why there are none. A run's data may have moved since: that is no error.

    Raises:
        DataError: the data that the command line names are not there.
    """
    if name is not None:
        return data_for(name, found, card, root), ""
    try:
        return data_of(found, root), ""
    except DataError as error:
        return None, str(error)


def _draws_at_random(network: nn.Module) -> bool:
    from ..surgery.history import history_of
    from ..units import get_unit

    units = {record["unit"] for record in history_of(network) if record["kind"] == "swap"}
    return any(get_unit(unit).train_eval == "stochastic" for unit in units)


def _some_images(data: Data, count: int = 2048) -> Iterator[Tensor]:
    """Normalised batches of training images from the whole set."""
    import torch

    from ..data import ArrayImages, FolderImages
    from ..train.augment import Normalize
    from ..train.batches import evaluation_batches

    every = max(1, len(data.train) // count)
    train = data.train
    some: ArrayImages | FolderImages
    if isinstance(train, ArrayImages):
        some = ArrayImages(train.images[::every], train.labels[::every])
    else:
        size = max(data.image_size)
        some = FolderImages(train.paths[::every], train.labels[::every], size, train=False, decoding=train.decoding)
    device = torch.device("cpu")
    normalize = Normalize(data.mean, data.std, device=device, dtype=torch.float32, channels_last=False)
    for images, _ in evaluation_batches(some, batch_size=128, normalize=normalize, device=device):
        yield images
