"""`imagefolder:PATH` as a data set: the checked content of the folders, with the crops of `FolderImages`."""

from __future__ import annotations

import logging
from hashlib import sha256
from pathlib import Path

from ..errors import DataError
from .folder import FolderImages
from .scan import Entry, scan_image_folder
from .types import Data

_log = logging.getLogger("convswap")
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_image_folder(name: str, path: Path, *, image_size: int, skip_unreadable: bool) -> Data:
    """Load `imagefolder:PATH`. Every image is decoded once first, so that training does not stop at a broken one.

    Raises:
        DataError: there is no such folder, it has no class folders or images, or images are unreadable (unless
            `skip_unreadable`).
    """
    from .decode import find_unreadable

    class_names, splits = scan_image_folder(path)
    unreadable = find_unreadable([entry.path for entries in splits.values() for entry in entries])
    if unreadable:
        total = sum(map(len, splits.values()))
        few = ", ".join(f"{file.relative_to(path)} ({reason})" for file, reason in list(unreadable.items())[:3])
        said = f"{len(unreadable)} of {total} images under {path} cannot be read: {few}"
        said += ", ..." if len(unreadable) > 3 else ""
        if not skip_unreadable:
            raise DataError(f"{said}; repair or remove them, or leave them out with --skip-unreadable")
        _log.warning("%s; left out", said)
        splits = {split: [e for e in entries if e.path not in unreadable] for split, entries in splits.items()}
        _check_not_empty(splits, class_names, path)

    train, test = (
        FolderImages([e.path for e in entries], [e.label for e in entries], image_size, train=split == "train")
        for split, entries in splits.items()
    )
    return Data(
        name=name,
        train=train,
        test=test,
        num_classes=len(class_names),
        channels=3,
        image_size=(image_size, image_size),
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        class_names=class_names,
        fingerprint=_fingerprint(path, splits),
        flip=True,
    )


def _check_not_empty(splits: dict[str, list[Entry]], class_names: tuple[str, ...], path: Path) -> None:
    if not splits["test"]:
        raise DataError(f"{path}: no readable test image is left")
    trained = {entry.label for entry in splits["train"]}
    for label, class_name in enumerate(class_names):
        if label not in trained:
            raise DataError(f"{path}: no readable training image of class {class_name!r} is left")


def _fingerprint(path: Path, splits: dict[str, list[Entry]]) -> str:
    digest = sha256()
    for split, entries in splits.items():
        for entry in entries:
            line = f"{split} {entry.path.relative_to(path).as_posix()} {entry.path.stat().st_size}\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()
