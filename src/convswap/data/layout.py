"""Which folders are parts, which are classes, and the layouts that are refused because they could mean two things."""

from __future__ import annotations

from pathlib import Path

from ..errors import DataError
from .names import shown
from .parts import PART_NAMES, looks_like_part, part_of
from .suffixes import IMAGE_SUFFIXES, UNREAD_SUFFIXES
from .walk import Walker

LAYOUT = "lay it out as PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg, or as PATH/CLASS/*.jpg to have it split"
_PIXELS = frozenset(("images", "image", "imgs", "img", "jpegimages", "photos"))
_ANSWERS = frozenset(("labels", "label", "masks", "mask", "annotations", "annotation", "segmentationclass", "xmls"))


def find_parts(walker: Walker) -> dict[str, Path]:
    """The folders of the parts `"train"`, `"val"` and `"test"` under the root, or none: then its folders are classes.

    Raises:
        DataError: a folder looks like a part but is none, two folders are for one part, there is no training part or
            nothing else, images lie beside the parts, or the root holds data sets rather than classes.
    """
    root = walker.root
    parts: dict[str, Path] = {}
    others = []
    for folder in walker.listing(root).folders:
        part = part_of(folder.name)
        if part is None:
            others.append(folder)
        elif part in parts:
            raise DataError(
                f"{shown(root)} has two folders for one part, {_quoted(parts[part], folder)}; move one of them away"
            )
        else:
            parts[part] = folder
    with_images = [folder for folder in others if holds_images(walker, folder)]
    for folder in with_images:
        _refuse_alike(folder, root)
    if not parts:
        _refuse_other_levels(walker, others)
        return parts
    if with_images:
        _refuse_beside(walker, parts, with_images)
    if "train" not in parts:
        raise DataError(f"{shown(root)} has {_quoted(*parts.values())} but no train folder; add one")
    if len(parts) == 1:
        train = shown(parts["train"])
        raise DataError(f"{shown(root)} has a train folder but no val or test; add one, or name {train} to split it")
    return parts


def class_folders(walker: Walker, part: Path, others: tuple[Path, ...] = ()) -> tuple[Path, ...]:
    """The class folders of a part, or of a root without parts.

    A class may be called `train` where every part (`others` are the remaining ones) has it and it holds images itself.

    Raises:
        DataError: there are none, a folder looks like a part, or the folders are images and masks rather than classes.
    """
    listing = walker.listing(part)
    if not listing.folders:
        count = sum(file.path.suffix.lower() in IMAGE_SUFFIXES for file in listing.files)
        without = f"; its {count} image{'s have' if count > 1 else ' has'} no label" if count else ""
        raise DataError(f"{shown(part)} has no class folders{without}; {LAYOUT}")
    names = {folder.name.casefold() for folder in listing.folders}
    if names & _PIXELS and names & _ANSWERS:
        raise DataError(
            f"{shown(part)} holds {_quoted(*listing.folders)}: a data set of boxes or masks, not of classes; {LAYOUT}"
        )
    for folder in listing.folders:
        if not _is_part(folder):
            continue
        everywhere = others and all(folder.name in {f.name for f in walker.listing(o).folders} for o in others)
        if not everywhere or walker.listing(folder).folders:
            raise DataError(
                f"{shown(folder)} may be a part or a class; classes lie in parts, parts in the data set's "
                f"folder; rename it, or move it to its place"
            )
    return listing.folders


def refuse_parts_below(walker: Walker, class_folder: Path) -> None:
    """Raise a `DataError` if images of a class lie in folders that are called like parts."""
    for folder in walker.below(class_folder).folders:
        if _is_part(folder) and holds_images(walker, folder):
            raise DataError(
                f"{shown(folder)} is a part inside a class: parts stand above classes, "
                f"PATH/{shown(folder.name)}/{shown(class_folder.name)}; move it, or rename it"
            )


def holds_images(walker: Walker, folder: Path) -> bool:
    """Whether images, readable or not, lie in a folder at any depth."""
    known = IMAGE_SUFFIXES | UNREAD_SUFFIXES
    return any(file.path.suffix.lower() in known for file in walker.below(folder).files)


def _refuse_beside(walker: Walker, parts: dict[str, Path], others: list[Path]) -> None:
    """Refuse folders with images beside parts. Where a part holds images itself, it may have been meant as a class."""
    root = shown(walker.root)
    for part in parts.values():
        if walker.listing(part).files and not walker.listing(part).folders:
            name = shown(part.name)
            raise DataError(
                f"{shown(part)} may be a part or a class: {_quoted(others[0])} lies beside it. A class {name!r} needs "
                f"parts above: {root}/train/{name} and {root}/test/{name}; or give it another name"
            )
    raise DataError(
        f"{root} has {_quoted(*parts.values())} and beside them the folder {_quoted(others[0])} with images; move it "
        "into these folders, or away"
    )


def _refuse_alike(folder: Path, root: Path) -> None:
    alike = looks_like_part(folder.name)
    if alike is None:
        return
    names = [alike] if alike else [names[0] for names in PART_NAMES.values()]
    raise DataError(
        f"{shown(folder)} looks like a part of a data set, but has none of their names; rename it to "
        f"{' or '.join(names)}, or move it out of {shown(root)}"
    )


def _refuse_other_levels(walker: Walker, folders: list[Path]) -> None:
    """Refuse data sets where classes should be: one folder too deep, side by side, or classes above parts."""
    inner = {folder: [f for f in walker.listing(folder).folders if _is_part(f)] for folder in folders}
    sets = [folder for folder in folders if inner[folder]]
    if len(folders) == 1 and (sets or len(walker.listing(folders[0]).folders) > 1):
        raise DataError(f"{shown(walker.root)} holds one folder only; name that one: {shown(folders[0])}")
    if not sets:
        return
    first = inner[sets[0]][0]
    if len(sets) == len(folders):
        raise DataError(
            f"{shown(walker.root)} holds data sets ({_quoted(*folders)}), each with parts such as {shown(first)}; name "
            "one of them, or, if these are classes, put the parts above them: PATH/train/CLASS"
        )
    raise DataError(
        f"{shown(walker.root)} holds classes and the part {shown(first)}, or data sets side by side; name one of them: "
        f"{shown(sets[0])}"
    )


def _is_part(folder: Path) -> bool:
    """Is a folder called like a part, or much like one?"""
    return part_of(folder.name) is not None or looks_like_part(folder.name) is not None


def _quoted(*folders: Path) -> str:
    few = [repr(shown(folder.name)) for folder in folders[:4]]
    return ", ".join([*few, "..."] if len(folders) > 4 else few)
