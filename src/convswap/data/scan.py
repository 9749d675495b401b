"""Finding the images, classes and parts of a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from ..errors import DataError
from .layout import LAYOUT, class_folders, find_parts, refuse_parts_below
from .names import composed, counted, is_utf8, shown, word
from .split import stratified_split
from .suffixes import UNREAD_SUFFIXES, how_to_read, is_system_file, readable_suffixes, suffix_of
from .uses import TEST, TRAIN, Uses, uses_of
from .walk import Found, Walker


@dataclass(frozen=True)
class Entry:
    """One image file, its label, and the numbers by which a change of the file is noticed."""

    path: Path
    label: int
    status: tuple[int, ...] = ()


@dataclass(frozen=True)
class FolderScan:
    """What a folder holds. Nothing has been decoded yet.

    Attributes:
        path: the folder.
        class_names: in the order of the labels.
        parts: the images of each use: `"train"`, `"validation"` (only where there are two parts beside training) and
            `"test"`.
        uses: which folder serves as what.
        left_out: by class and suffix, how many files are no images that are read here.
        odd: what cannot be read at all: links that lead nowhere, pipes; with the reason.
        notes: what else a person should know, one clause each.
    """

    path: Path
    class_names: tuple[str, ...]
    parts: Mapping[str, tuple[Entry, ...]]
    uses: Uses
    left_out: Mapping[str, Mapping[str, int]]
    odd: Mapping[Path, str]
    notes: tuple[str, ...]


def scan_image_folder(path: Path, eval_split: str = "auto") -> FolderScan:
    """The classes of a folder, and the images of its parts in a fixed order.

    The folders `train`, `val` and `test` (and the other names of `parts.PART_NAMES`) are the parts. Without them the
    folders are classes, and one fifth of each is for testing. Images may lie deeper below their class. Hidden folders
    are never read, every other folder is read once, and every image file is counted once.

    Args:
        path: the folder.
        eval_split: see `DataOptions`.

    Raises:
        DataError: there is no such folder, or it has no images laid out like this. The message names the fault.
        UsageError: `eval_split` names a part that the folder lacks.
    """
    if not path.is_dir():
        raise DataError(f"{shown(path)}: {'a file, not a folder' if path.exists() else 'no such folder'}; {LAYOUT}")
    if not is_utf8(str(path)):
        raise DataError(f"{shown(path)}: the name is not valid UTF-8; rename the folder")
    walker = Walker(path)
    folders = find_parts(walker)
    uses = uses_of({part: folder.name for part, folder in folders.items()}, eval_split, f"{shown(path)}")
    used = {use: folders[part] for use, part in uses.parts.items()} if folders else {TRAIN: path}
    collector = _Collector(walker, used)
    class_names, parts = collector.collect()
    if not folders:
        entries = parts[TRAIN]
        keys = [entry.path.relative_to(path).as_posix() for entry in entries]
        train, held_out = stratified_split([entry.label for entry in entries], keys, class_names)
        parts = {TRAIN: [entries[i] for i in train], TEST: [entries[i] for i in held_out]}
    return FolderScan(
        path,
        class_names,
        {use: tuple(entries) for use, entries in parts.items()},
        uses,
        {name: dict(counts) for name, counts in collector.left_out.items() if counts},
        {odd: why for odd, why in walker.odd.items() if _concerns(odd, path, used.values())},
        (*collector.notes(), *_beside(walker, {path, *used.values()}), *_hidden(walker), *uses.notes),
    )


def _concerns(odd: Path, root: Path, used: Iterable[Path]) -> bool:
    """Whether something unreadable may have been meant as an image, a class or a part."""
    return odd.parent == root or any(odd.is_relative_to(part) for part in used)


class _Collector:
    """Collects the images of the used parts, class by class."""

    def __init__(self, walker: Walker, used: Mapping[str, Path]) -> None:
        self.walker, self.used = walker, used
        self.left_out: dict[str, Counter[str]] = {}
        self.repeated: list[Path] = []
        self.absent: list[str] = []
        self.empty: list[Path] = []
        self._seen: dict[tuple[int, int], tuple[Path, Path]] = {}
        self._readable = readable_suffixes()

    def collect(self) -> tuple[tuple[str, ...], dict[str, list[Entry]]]:
        """The class names, and the entries of each part."""
        classes = {use: self._classes(use, part) for use, part in self.used.items()}
        names = tuple(classes[TRAIN])
        labels = {composed(name): label for label, name in enumerate(names)}
        parts: dict[str, list[Entry]] = {}
        for use, folders in classes.items():
            if strangers := [name for name in folders if composed(name) not in labels]:
                raise DataError(self._stranger(use, strangers[0], names))
            missing = [shown(name) for name in names if composed(name) not in set(map(composed, folders))]
            self.absent += [f"{shown(self.used[use].name)} has no image of {', '.join(missing[:4])}"] if missing else []
            parts[use] = [
                Entry(found.path, labels[composed(name)], _status(found))
                for name, folder in folders.items()
                for found in self._images(folder, composed(name))
            ]
        return tuple(composed(name) for name in names), parts

    def notes(self) -> list[str]:
        """What was found and not counted, or is missing."""
        notes = list(self.absent)
        if self.repeated:
            first = shown(self.repeated[0].relative_to(self.walker.root))
            notes.append(f"{counted(len(self.repeated), 'link')} to images already there not counted again ({first})")
        notes += [f"the folder {shown(f.relative_to(self.walker.root))} holds no image" for f in self.empty]
        return notes

    def _classes(self, use: str, part: Path) -> dict[str, Path]:
        """The class folders of a part by name."""
        others = tuple(folder for folder in self.used.values() if folder != part)
        folders = class_folders(self.walker, part, others)
        known: dict[str, str] = {}
        for folder in folders:
            if not is_utf8(folder.name):
                raise DataError(f"class folder {shown(folder)}: the name is not valid UTF-8; rename the folder")
            twin = known.setdefault(word(folder.name), folder.name)
            if twin != folder.name:
                raise DataError(
                    f"the class folders {shown(twin)!r} and {shown(folder.name)!r} of {shown(part)} differ only in "
                    "case, spaces or the way accents are stored; put them together, or rename one"
                )
        if len(folders) < 2:
            name = shown(folders[0].name)
            raise DataError(f"{shown(part)} has only one class folder, {name!r}; at least 2 are needed; {LAYOUT}")
        return {folder.name: folder for folder in folders}

    def _stranger(self, use: str, name: str, known: Sequence[str]) -> str:
        near = next((k for k in known if word(k) == word(name)), None) or next(
            iter(get_close_matches(name, known, n=1)), None
        )
        hint = f"did you mean {shown(near)!r}?" if near else "add it there, or remove it here"
        return f"{shown(self.used[use])} has the class {shown(name)!r}, which {shown(self.used[TRAIN])} lacks; {hint}"

    def _images(self, folder: Path, class_name: str) -> list[Found]:
        """The images of a class folder. Other files are counted by suffix."""
        refuse_parts_below(self.walker, folder)
        images, others = [], Counter[str]()
        below = self.walker.below(folder)
        # Some programs pack an image into a folder that is called like the image.
        packed = [f for f in below.folders if f.suffix.lower() in self._readable and not self.walker.below(f).files]
        self.empty += packed
        for found in below.files:
            suffix = suffix_of(found.path)
            if suffix in self._readable:
                images.append(found)
            elif not is_system_file(found.path):
                others[suffix] += 1
        if not images:
            raise DataError(self._empty(folder, others))
        self.left_out.setdefault(class_name, Counter()).update(others)
        return [found for found in images if self._is_new(found, folder)]

    def _is_new(self, found: Found, folder: Path) -> bool:
        """Whether the file is met for the first time. The same file in another class or part is refused."""
        key = (found.stat.st_dev, found.stat.st_ino)
        if not found.stat.st_ino:  # a file system without such numbers
            return True
        before, home = self._seen.setdefault(key, (found.path, folder))
        if before == found.path:
            return True
        if home != folder:
            raise DataError(
                f"{shown(found.path)} and {shown(before)} are one file (a link), in two classes or parts; remove one"
            )
        self.repeated.append(found.path)
        return False

    def _empty(self, folder: Path, others: Counter[str]) -> str:
        start = f"class folder {shown(folder)} holds no image"
        dangling = [path for path in self.walker.odd if path.is_relative_to(folder)]
        if dangling:
            first = dangling[0]
            return f"{start} but {len(dangling)} that cannot be read ({shown(first.name)}: {self.walker.odd[first]})"
        if others:
            suffix, count = others.most_common(1)[0]
            return f"{start} that can be read, but {count} files {suffix}; {how_to_read(suffix)}"
        return f"{start}; put images there, or remove the folder"


def _status(found: Found) -> tuple[int, ...]:
    # Renaming exchanges files without touching size and time of writing. The other two numbers notice it.
    stat = found.stat
    return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def _beside(walker: Walker, folders: set[Path]) -> list[str]:
    """Images that lie where no class is."""
    known = readable_suffixes() | UNREAD_SUFFIXES
    lost = sorted(
        file.path for folder in folders for file in walker.listing(folder).files if file.path.suffix.lower() in known
    )
    if not lost:
        return []
    first = shown(lost[0].relative_to(walker.root))
    return [f"{counted(len(lost), 'image')} in no class folder and not used ({first})"]


def _hidden(walker: Walker) -> list[str]:
    if not walker.hidden:
        return []
    names = ", ".join(sorted({shown(path.name) for path in walker.hidden})[:3])
    folders = "folder is" if len(walker.hidden) == 1 else "folders are"
    return [f"{len(walker.hidden)} hidden {folders} not read ({names})"]
