"""Reading a tree of folders so that no folder is read twice and no link leads astray."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from .names import shown

_SYSTEM = frozenset(("__macosx", "@eadir"))  # what macOS puts into archives, and Synology into folders


def is_hidden(name: str) -> bool:
    """Whether files and folders of this name are never read."""
    return name.startswith(".") or name.casefold() in _SYSTEM


@dataclass(frozen=True)
class Found:
    """A file with what the system knows of it. Links are followed."""

    path: Path
    stat: os.stat_result


@dataclass(frozen=True)
class Listing:
    """The folders and files of one folder by name, or of a whole tree. Hidden ones are left out."""

    folders: tuple[Path, ...]
    files: tuple[Found, ...]


class Walker:
    """Reads folders below a root.

    Attributes:
        hidden: the hidden folders that were met and not read.
        odd: what stands among the files and cannot be read: links that lead nowhere, pipes, sockets.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hidden: list[Path] = []
        self.odd: dict[Path, str] = {}
        self._real = Path(os.path.realpath(root))
        self._listings: dict[Path, Listing] = {}
        self._met: dict[tuple[int, int] | str, Path] = {}

    def listing(self, folder: Path) -> Listing:
        """The content of a folder, which is read once.

        Raises:
            DataError: the folder cannot be read, is the same as another one, or holds a link back into the tree.
        """
        if folder not in self._listings:
            self._enter(folder)
            self._listings[folder] = self._read(folder)
        return self._listings[folder]

    def below(self, folder: Path) -> Listing:
        """All folders and files below a folder, at any depth, in the order of their paths."""
        folders: list[Path] = []
        files: list[Found] = []
        waiting = [folder]
        while waiting:
            here = self.listing(waiting.pop())
            files += here.files
            folders += here.folders
            waiting += here.folders
        return Listing(tuple(sorted(folders)), tuple(sorted(files, key=lambda file: file.path)))

    def _enter(self, folder: Path) -> None:
        status = folder.stat()
        key = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)
        before = self._met.setdefault(key, folder)
        if before != folder:
            raise DataError(
                f"{shown(folder)} is the same folder as {shown(before)}: its images would count twice; remove the link"
            )

    def _read(self, folder: Path) -> Listing:
        folders, files = [], []
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{shown(folder)} cannot be read ({error.strerror}); check its permissions") from error
        for entry in entries:
            path = folder / entry.name
            if is_hidden(entry.name):
                self.hidden += [path] if entry.is_dir() else []
                continue
            try:
                status = entry.stat()
            except OSError as error:  # deleted meanwhile, a link to nothing, or a circle of links
                self.odd[path] = "a link that leads nowhere" if entry.is_symlink() else str(error.strerror)
                continue
            if stat.S_ISDIR(status.st_mode):
                if entry.is_symlink():
                    self._check_link(path)
                folders.append(path)
            elif stat.S_ISREG(status.st_mode):
                files.append(Found(path, status))
            else:
                self.odd[path] = "not a file"
        return Listing(tuple(folders), tuple(files))

    def _check_link(self, link: Path) -> None:
        target = Path(os.path.realpath(link))
        if self._real.is_relative_to(target):
            where = "to a folder above it"
        elif target.is_relative_to(self._real) and not any(map(is_hidden, target.relative_to(self._real).parts)):
            where = f"back to {shown(self.root / target.relative_to(self._real))}"
        else:
            return
        raise DataError(f"{shown(link)} is a link {where}: its images would count twice; remove the link")
