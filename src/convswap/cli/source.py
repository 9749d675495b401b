"""The argument RUN|MODEL of the verbs: a saved model or the name of one, and an image of the size it takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .options import existing_file
from .saved import find_saved, near, open_saved

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..data import Data
    from ..models import ModelCard


def is_path(text: str) -> bool:
    """Does the argument name a trial's folder or a file, rather than a model?

    Raises:
        UsageError: it looks like a path, but nothing lies there, and it is no model.
    """
    path = Path(text)
    if path.suffix == ".py":
        return False
    if path.exists():
        return True
    beside = near(path)
    if beside or "/" in text or text.endswith(".safetensors"):
        _refuse_unless_model(text, beside)
    return False


def _refuse_unless_model(text: str, beside: str) -> None:
    """A path that does not exist may still be the name of a model. If not, files called much alike are named."""
    import timm

    from ..models import families  # noqa: F401 (registers our networks with timm)

    if ":" not in text and not timm.is_model(text):
        ask = "give a trial's folder, a .safetensors file or a model's name"
        raise UsageError(f"RUN {text}: does not exist and is no model{beside}; {ask}")


def open_source(
    source: str,
    out: Path | None,
    *,
    weights: Path | None,
    pretrained: bool,
    classes: int | None,
    model: str | None,
) -> nn.Module:
    """The network that a verb changes and saves as `out`: saved, or by its name.

    Raises:
        UsageError: the options contradict each other, or `out` is a folder or the file that is read.
    """
    if out is not None and out.is_dir():
        raise UsageError(f"--out {out}: is a folder; name a file, such as {out / 'model.safetensors'}")
    existing_file("--weights", weights)
    if not is_path(source):
        return named_model(source, weights, pretrained, classes)
    saved = find_saved(Path(source))
    if weights is not None or pretrained or classes is not None:
        raise UsageError(f"--weights, --pretrained and --classes are for a named model; {source} has its own")
    if out is not None and out.exists() and out.samefile(saved.weights):
        raise UsageError(f"--out {out}: is the original, which is kept; name another file")
    return open_saved(saved, model)


def named_model(
    name: str, weights: Path | None, pretrained: bool, classes: int | None, data: Data | None = None
) -> nn.Module:
    """A model by its name, in eval mode, with as many classes as given, or as the data or the model's kind has."""
    from ..models import create_model

    channels = 3 if data is None else data.channels
    count = classes or (data.num_classes if data is not None else 10 if name.startswith("cifar_") else 1000)
    model = create_model(name, num_classes=count, in_channels=channels, pretrained=pretrained, weights=weights)
    return model.eval()


def example_for(model: nn.Module, card: ModelCard | None, image_size: int | None) -> Tensor:
    """Noise of the model's usual input size. The proof does not depend on the size."""
    import torch

    if card is not None and card.channels is not None and card.image_size is not None:
        height, width = card.image_size
        shape = (1, card.channels, image_size or height, image_size or width)
    else:
        declared = getattr(model, "pretrained_cfg", None) or {}
        channels, height, width = declared.get("input_size", (3, 224, 224))
        first = next((m for m in model.modules() if isinstance(m, torch.nn.Conv2d)), None)
        channels = channels if first is None else first.in_channels
        shape = (1, channels, image_size or height, image_size or width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
