"""The predictions of a trained network on the test images, kept in its trial's folder."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import StoreError
from ..files import write_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ..data import Data
    from ..train import FitResult, Recipe

PREDICTIONS_FILE = "predictions.npz"


def keep_predictions(folder: Path, model: nn.Module, data: Data, recipe: Recipe, fitted: FitResult) -> None:
    """Run the test images once more, as the training did after its last epoch, and keep each predicted class.

    The file holds `predictions` and `labels`, in the order of the test images, in the smallest type that fits.

    Raises:
        StoreError: the file cannot be written.
    """
    from ..train import evaluate

    found = evaluate(model, data, precision=fitted.precision, device=fitted.device, channels_last=recipe.channels_last)
    kind = np.uint8 if data.num_classes <= 256 else np.uint16 if data.num_classes <= 65_536 else np.int64
    labels: Tensor = torch.as_tensor(data.test.labels)
    stream = io.BytesIO()
    np.savez_compressed(
        stream, predictions=found.predictions.numpy().astype(kind), labels=labels.cpu().numpy().astype(kind)
    )
    write_atomically(folder / PREDICTIONS_FILE, stream.getbuffer())


class PredictionFiles:
    """The predictions in the folders of a lab's trials. Labs filled before they were kept have none.

    Args:
        trials_dir: the folder of the trials' folders.
    """

    def __init__(self, trials_dir: str | Path) -> None:
        self.folder = Path(trials_dir)

    def correct(self, id: str) -> NDArray[np.bool_] | None:
        """Whether a trial's network got each test image right, in order. None if its predictions were not kept.

        Raises:
            StoreError: the file is damaged.
        """
        path = self.folder / id / PREDICTIONS_FILE
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as saved:
                predictions, labels = saved["predictions"], saved["labels"]
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise _damaged(path, str(error)) from error
        if predictions.ndim != 1 or predictions.shape != labels.shape or not len(labels):
            raise _damaged(path, f"{predictions.shape} predictions of {labels.shape} labels")
        correct: NDArray[Any] = predictions == labels
        return correct


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(f"{path} is damaged ({reason}); delete it: the interval for new images is then left out")
