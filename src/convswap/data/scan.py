"""Finding the images, classes and splits of a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from .split import stratified_split

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp", ".jfif", ".avif")
)
_LAYOUT = "lay it out as PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg, or as PATH/CLASS/*.jpg to have it split"


@dataclass(frozen=True)
class Entry:
    """One image file and its label."""

    path: Path
    label: int


def scan_image_folder(path: Path) -> tuple[tuple[str, ...], dict[str, list[Entry]]]:
    """The class names of a folder, and the entries of its `"train"` and `"test"` parts, in a fixed order.

    A `train` folder and a `test` or `val` folder (`test` if there are both) are the two parts. Without them the folders
    are classes, and one fifth of each is for testing. Hidden files and files without the suffix of an image are
    ignored. Images may lie deeper below their class.

    Raises:
        DataError: there is no such folder, or it has no images laid out like this.
    """
    if not path.is_dir():
        raise DataError(f"{path}: {'a file, not a folder' if path.exists() else 'no such folder'}; {_LAYOUT}")
    folders = _subfolders(path)
    test = next((name for name in ("test", "val") if name in folders), None)
    if "train" in folders and test is not None:
        class_names, train_entries = _scan_classes(path / "train")
        test_names, test_entries = _scan_classes(path / test)
        strangers = sorted(set(test_names) - set(class_names))
        if strangers:
            raise DataError(f"{path / test} has the class {strangers[0]!r}, which {path / 'train'} lacks")
        labels = {name: label for label, name in enumerate(class_names)}
        test_entries = [Entry(entry.path, labels[test_names[entry.label]]) for entry in test_entries]
        return class_names, {"train": train_entries, "test": test_entries}
    if folders == ["train"]:
        raise DataError(f"{path} has a train folder but no test or val; add one, or name {path / 'train'} to split it")
    class_names, entries = _scan_classes(path)
    keys = [entry.path.relative_to(path).as_posix() for entry in entries]
    train, held_out = stratified_split([entry.label for entry in entries], keys, class_names)
    return class_names, {"train": [entries[i] for i in train], "test": [entries[i] for i in held_out]}


def _subfolders(path: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def _scan_classes(path: Path) -> tuple[tuple[str, ...], list[Entry]]:
    class_names = _subfolders(path)
    if not class_names:
        raise DataError(f"{path} has no class folders; {_LAYOUT}")
    if len(class_names) < 2:
        raise DataError(f"{path} has only one class folder, {class_names[0]!r}; at least 2 are needed; {_LAYOUT}")
    entries: list[Entry] = []
    for label, class_name in enumerate(class_names):
        files = sorted(
            Path(folder, file)
            for folder, _, names in os.walk(path / class_name, followlinks=True)
            for file in names
            if Path(file).suffix.lower() in IMAGE_SUFFIXES and not file.startswith(".")
        )
        if not files:
            raise DataError(f"class folder {path / class_name} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
        entries += [Entry(file, label) for file in files]
    return tuple(class_names), entries
