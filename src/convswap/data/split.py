"""A fixed split for data that bring none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256

from ..errors import DataError


def stratified_split(
    labels: Sequence[int],
    keys: Sequence[str],
    class_names: Sequence[str],
    *,
    test_fraction: float = 0.2,
    parts: str = "a train and a test part",
) -> tuple[list[int], list[int]]:
    """Indices of the training and the test part, with the same share of every class in the test part.

    The hashes of the items' keys alone decide which items are for testing. Without a random number generator, the split
    is the same on every machine and version. An added item moves few others. An error calls the two parts `parts`.

    >>> train, test = stratified_split([0] * 5 + [1] * 5, list("abcdefghij"), ["cat", "dog"])
    >>> len(train), len(test)
    (8, 2)
    """
    by_class: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        by_class[label].append(index)
    train: list[int] = []
    test: list[int] = []
    for label, indices in by_class.items():
        if len(indices) < 2:
            raise DataError(f"class {class_names[label]!r} has {len(indices)} image; {parts} need 2")
        indices.sort(key=lambda index: sha256(keys[index].encode(errors="surrogateescape")).digest())
        n_test = max(1, round(len(indices) * test_fraction))
        test += indices[:n_test]
        train += indices[n_test:]
    return sorted(train), sorted(test)
