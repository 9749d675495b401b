"""`convswap fuse`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .arguments import DataRoot
from .saved import data_of, find_saved, load_saved

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..data import Data
    from ..lab import Trial

NAME = "fuse"


def run(
    source: Annotated[
        Path, typer.Argument(metavar="RUN", help="A trial's folder, or a .safetensors file of convswap.save.")
    ],
    image_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="PIXELS", help="Side of the input. Default: the run's, else the model's."),
    ] = None,
    evaluate: Annotated[bool, typer.Option(help="For a run: measure test accuracy before and after.")] = True,
    latency: Annotated[bool, typer.Option(help="Measure latency before and after.")] = True,
    recalibrate: Annotated[
        bool,
        typer.Option(
            "--recalibrate",
            help="For a run: first re-estimate BatchNorm statistics on training images. Use it for units that train "
            "with random draws, such as circle_mix.",
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="For a model of your own: its function again. A file alone never decides what is imported.",
        ),
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Turn a trained model into plain convolutions, prove it equal, and save it beside the original.

    Units are folded into convolutions, and BatchNorm into the convolution before it. Both models then run on the same
    input in float64. A difference above 1e-9 is an error.

    \b
    Examples:
      convswap fuse convswap-lab/trials/0f3a5d6c7b8e9a01
      convswap fuse model.safetensors --image-size 128
    """
    from ..models import save
    from ..surgery import plan_fuse

    found = find_saved(source)
    network = load_saved(found.weights, model)
    data = data_of(found, data_root) if evaluate or recalibrate or image_size is None else None
    if recalibrate and data is None:
        raise UsageError(f"--recalibrate needs a run, whose data are known; {source} is a file")
    example = _example(network, data, image_size)
    plan = plan_fuse(network, example, recalibrate=_some_images(data) if recalibrate and data else None)
    fused = plan.apply().eval()
    save(fused, found.output)
    print(plan)
    if latency:
        _print_latency(network, fused, example)
    if evaluate and data is not None:
        _print_accuracy(data, network, fused)
    if not recalibrate and _draws_at_random(found.trial):
        print("the unit trained with random draws: --recalibrate fits BatchNorm to the kernel that inference uses")
    print(f"fused model: {found.output}")


def _draws_at_random(trial: Trial | None) -> bool:
    from ..units import get_unit

    return trial is not None and get_unit(trial.unit).train_eval == "stochastic"


def _example(model: nn.Module, data: Data | None, image_size: int | None) -> Tensor:
    """Noise of the model's usual input size. The proof does not depend on the size."""
    import torch

    if data is not None and image_size is None:
        shape = (1, data.channels, *data.image_size)
    else:
        declared = getattr(model, "pretrained_cfg", None) or {}
        channels, height, width = declared.get("input_size", (3, 224, 224))
        first = next((m for m in model.modules() if isinstance(m, torch.nn.Conv2d)), None)
        channels = channels if first is None else first.in_channels
        shape = (1, channels, image_size or height, image_size or width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


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


def _print_latency(model: nn.Module, fused: nn.Module, example: Tensor) -> None:
    from ..measure.latencies.timing import measure_latency

    found = measure_latency({"before": model, "after": fused}, example)
    before, after = found["before"], found["after"]
    print(
        f"latency {before.median_ms:.2f} -> {after.median_ms:.2f} ms for {'x'.join(map(str, example.shape))} "
        f"(median of {after.repeats}, {after.threads} thread{'s' if after.threads > 1 else ''})"
    )


def _print_accuracy(data: Data, model: nn.Module, fused: nn.Module) -> None:
    from ..train import evaluate

    before, after = (evaluate(m, data) for m in (model, fused))
    changed = int((before.predictions != after.predictions).sum())
    print(
        f"test accuracy {before.accuracy:.2%} -> {after.accuracy:.2%}; "
        f"{changed} of {len(before.predictions)} predictions changed"
    )
