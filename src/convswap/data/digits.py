"""The embedded data set: scikit-learn's copy of the UCI handwritten digits."""

from __future__ import annotations

import numpy as np

from .arrays import data_from_arrays
from .split import stratified_split
from .types import Data


def load_digits(eval_split: str = "auto") -> Data:
    """1,797 grey images of 8x8 pixels in 10 classes. A fixed fifth of each class is for testing.

    Each pixel counts the black dots in a 4x4 square, 0..16. The counts are scaled to 0..255.
    """
    from sklearn.datasets import load_digits as load

    bunch = load()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    names = tuple(str(name) for name in bunch.target_names)
    train, test = stratified_split(labels.tolist(), [str(index) for index in range(len(labels))], names)
    arrays = {"x_train": images[train], "y_train": labels[train], "x_test": images[test], "y_test": labels[test]}
    return data_from_arrays("digits", arrays, source="digits", class_names=names, flip=False, eval_split=eval_split)
