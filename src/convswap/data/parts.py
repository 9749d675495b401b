"""Which names of folders mean a part of a data set: training, validation or test."""

from __future__ import annotations

import re

PART_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing", "holdout"),
}
"""The names of each part, in any case."""

_PART = {name: part for part, names in PART_NAMES.items() for name in names}
_ALIKE = {**_PART, "heldout": "test", "trainval": "train", "evaluation": "val", "unlabelled": "", "unlabeled": ""}
_ALIKE |= {"unsupervised": "", "traintest": ""}
# Words that say nothing beside "train": "test_set", "Validation (1)", "train - Copy", "new train images".
_FILLING = frozenset(
    [
        "set",
        "sets",
        "data",
        "dataset",
        "image",
        "images",
        "img",
        "imgs",
        "photo",
        "photos",
        "picture",
        "pictures",
        "split",
        "part",
        "copy",
        "kopie",
        "of",
        "new",
        "old",
        "final",
        "full",
        "small",
        "mini",
        "all",
        "folder",
        "resized",
        "cropped",
        "clean",
        "raw",
        "backup",
        "bak",
        "tmp",
    ]
)
_NUMBERED = re.compile(r"(cv|fold|split)[\W_]*\d+")


def part_of(name: str) -> str | None:
    """`"train"`, `"val"` or `"test"` for a name that means this part, else None.

    >>> part_of("Valid"), part_of("holdout"), part_of("train2")
    ('val', 'test', None)
    """
    return _PART.get(name.casefold())


def looks_like_part(name: str) -> str | None:
    """The part that a name looks like without being one of its names, `""` if it is unclear which. None for others.

    >>> [looks_like_part(name) for name in ("train2", "Validation (1)", "trainA", "unlabelled", "fold_3")]
    ['train', 'val', 'train', '', '']
    >>> [looks_like_part(name) for name in ("train station", "test tube", "ants", "train")]
    [None, None, None, None]
    """
    if part_of(name) is not None:
        return None
    if _NUMBERED.fullmatch(name.casefold()):
        return ""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    tokens = [token for token in re.findall(r"[^\W\d_]+", apart.casefold()) if len(token) > 1]
    joined = "".join(tokens)
    if joined in _ALIKE:
        return _ALIKE[joined]
    parts = [_alike(token) for token in tokens if token not in _FILLING]
    if not parts or None in parts:
        return None
    return parts[0] if len(set(parts)) == 1 else ""


def _alike(token: str) -> str | None:
    """The part of one word, with a filling grown to it: `trainset`, `datatest`."""
    if token in _ALIKE:
        return _ALIKE[token]
    for word, part in _ALIKE.items():
        rest = token.removeprefix(word) if token.startswith(word) else token.removesuffix(word)
        if rest != token and rest in _FILLING:
            return part
    return None
