"""`imagefolder:PATH` as a data set: the checked content of the folders, with the crops of `FolderImages`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from ..errors import DataError
from .folder import FolderImages
from .names import shown
from .options import DataOptions
from .scan import Entry, FolderScan, scan_image_folder
from .types import Data
from .uses import TRAIN, VALIDATION

_log = logging.getLogger("convswap")
_DEFAULTS = DataOptions()
_IMAGENET = {3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), 1: ((0.449,), (0.226,))}
"""Mean and standard deviation of photographs by channels; those of grey are the mean over the colours."""


def load_image_folder(
    name: str,
    path: Path,
    *,
    image_size: int,
    skip_unreadable: bool = False,
    options: DataOptions = _DEFAULTS,
    cache: Path | None = None,
) -> Data:
    """Load `imagefolder:PATH`. Every image is decoded once first, so that training does not stop at a broken one.

    Args:
        name: the data set's name.
        path: the folder.
        image_size: side of the crops.
        skip_unreadable: leave out files that cannot be read instead of refusing the folder.
        options: how the images are read.
        cache: a folder in which the facts on unchanged files are kept.

    Raises:
        DataError: there is no such folder, it is not laid out as `scan_image_folder` says, images are unreadable
            (unless `skip_unreadable`), or their values have no usual range.
        UsageError: `eval_split` names a part that the folder lacks.
    """
    from .hash_cache import inspect_entries
    from .inspection import FileFacts
    from .pixels import decoding_of, describe_folder, notes_across

    scan = scan_image_folder(path, options.eval_split)
    everything = [entry for entries in scan.parts.values() for entry in entries]
    found = inspect_entries(everything, path, cache)
    facts = {e.path: one for e, one in zip(everything, found, strict=True) if isinstance(one, FileFacts)}
    unreadable = dict(scan.odd) | {
        e.path: one for e, one in zip(everything, found, strict=True) if not isinstance(one, FileFacts)
    }
    scan = _readable(scan, unreadable, skip_unreadable)
    kept = {use: [facts[entry.path] for entry in entries] for use, entries in scan.parts.items()}
    decoding, notes = decoding_of([one for of_use in kept.values() for one in of_use], options, shown(path))
    notes += notes_across(scan, kept, decoding.scale)
    images = {
        use: FolderImages(
            [e.path for e in entries], [e.label for e in entries], image_size, train=use == TRAIN, decoding=decoding
        )
        for use, entries in scan.parts.items()
    }
    digests = {use: [one.digest for one in of_use] for use, of_use in kept.items()}
    mean, std = _IMAGENET[decoding.channels]
    return Data(
        name=name,
        train=images[TRAIN],
        test=images["test"],
        validation=images.get(VALIDATION),
        num_classes=len(scan.class_names),
        channels=decoding.channels,
        image_size=(image_size, image_size),
        mean=mean,
        std=std,
        class_names=scan.class_names,
        fingerprint=fingerprint(scan.parts, digests, scan.class_names, repr(decoding)),
        flip=True,
        options=options.as_dict(),
        description=describe_folder(scan, kept, (*notes, *scan.notes)),
    )


def _readable(scan: FolderScan, unreadable: Mapping[Path, str], skip: bool) -> FolderScan:
    """The scan without the unreadable files, if leaving them out is wanted."""
    if not unreadable:
        return scan
    total = len({entry.path for entries in scan.parts.values() for entry in entries} | set(unreadable))
    few = ", ".join(
        f"{shown(file.relative_to(scan.path))} ({reason})" for file, reason in sorted(unreadable.items())[:3]
    )
    said = f"{len(unreadable)} of {total} images under {shown(scan.path)} cannot be read: {few}"
    said += ", ..." if len(unreadable) > 3 else ""
    if not skip:
        raise DataError(f"{said}; repair or remove them, or leave them out with --skip-unreadable")
    _log.warning("%s; left out", said)
    parts = {use: tuple(e for e in entries if e.path not in unreadable) for use, entries in scan.parts.items()}
    _check_not_empty(parts, scan)
    files = "file is" if len(unreadable) == 1 else "files are"
    note = f"{len(unreadable)} unreadable {files} left out ({few.partition(', ')[0]})"
    return replace(scan, parts=parts, notes=(*scan.notes, note))


def _check_not_empty(parts: Mapping[str, Sequence[Entry]], scan: FolderScan) -> None:
    for use, entries in parts.items():
        if not entries:
            raise DataError(f"{shown(scan.path)}: no readable {use} image is left")
    trained = {entry.label for entry in parts[TRAIN]}
    for label, class_name in enumerate(scan.class_names):
        if label not in trained:
            raise DataError(f"{shown(scan.path)}: no readable training image of class {class_name!r} is left")


def fingerprint(
    parts: Mapping[str, Sequence[Entry]],
    digests: Mapping[str, Sequence[str]],
    class_names: Sequence[str],
    decoding: str,
) -> str:
    """sha256 over what a training sees: every file's bytes in order, labels, uses, class names, how pixels are read.

    Names of files do not count, unless they change the order.
    """
    digest = sha256(repr((tuple(class_names), decoding)).encode())
    for use, entries in parts.items():
        for entry, content in zip(entries, digests[use], strict=True):
            digest.update(f"{use} {entry.label} {content}\n".encode())
    return digest.hexdigest()
