"""What each part of a data set is used for: training, watching the training, the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import UsageError

TRAIN, VALIDATION, TEST = "train", "validation", "test"


@dataclass(frozen=True)
class Uses:
    """Which part serves as what.

    Attributes:
        parts: from the use (`"train"`, `"validation"`, `"test"`) to the part (`"train"`, `"val"`, `"test"`). Empty
            where the data bring no parts and are split here.
        names: from the use to the name that the part has in the data, such as `"valid"`.
        notes: what a person should know of it, one clause each.
    """

    parts: Mapping[str, str]
    names: Mapping[str, str]
    notes: tuple[str, ...]


def uses_of(names: Mapping[str, str], eval_split: str, source: str) -> Uses:
    """The use of each part that is there.

    Args:
        names: from the parts that are there to their names in the data. Empty: a fifth is set aside.
        eval_split: `"auto"`, `"val"` or `"test"`, see `DataOptions`.
        source: the data, for messages.

    Raises:
        UsageError: `eval_split` names a part that is not there.

    >>> uses_of({"train": "train", "val": "valid", "test": "test"}, "auto", "photos").names
    {'train': 'train', 'validation': 'valid', 'test': 'test'}
    """
    if eval_split != "auto" and eval_split not in names:
        there = (
            " and ".join(name for part, name in names.items() if part != "train") or "a fifth that is set aside here"
        )
        raise UsageError(f"eval_split={eval_split!r} is not allowed for {source}: it has no such part, but {there}")
    if not names:
        return Uses({}, {}, ("a fifth of each class is set aside as test images",))
    both = "val" in names and "test" in names
    if both and eval_split == "auto":
        parts = {TRAIN: "train", VALIDATION: "val", TEST: "test"}
        notes = [f"{names['val']} is watched during training, {names['test']} is run once at the end"]
    else:
        tested = eval_split if eval_split != "auto" else "test" if "test" in names else "val"
        parts = {TRAIN: "train", TEST: tested}
        notes = [f"the test images are those of {names['val']}"] if tested == "val" else []
        if both:
            notes.append(f"{names['test' if tested == 'val' else 'val']} is not used")
    return Uses(parts, {use: names[part] for use, part in parts.items()}, tuple(notes))
