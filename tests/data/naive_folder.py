"""What a folder of images holds, by a slow and simple reading of the rules in docs/data.md, for `test_torture.py`.

Nothing here is shared with convswap: names, suffixes and rules are written down a second time.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

PART_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}
ALIKE = {"unlabelled", "train2", "test_set", "fold_2", "Validation (1)"}
READ = {".png", ".jpg"}
IMAGES = READ | {".heic", ".svg"}


@dataclass
class Naive:
    """The images by path with their class, what is left over, and of each fault the names that a refusal may give."""

    images: dict[Path, str] = field(default_factory=dict)
    part: dict[Path, str] = field(default_factory=dict)
    unread: Counter[tuple[str, str]] = field(default_factory=Counter)
    twins: list[Path] = field(default_factory=list)
    stray: list[Path] = field(default_factory=list)
    faults: list[set[str]] = field(default_factory=list)


def visible(name: str) -> bool:
    return not name.startswith(".") and name not in ("__MACOSX", "@eaDir")


def children(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(os.listdir(folder)) if visible(name)]


def folders(folder: Path) -> list[Path]:
    return [child for child in children(folder) if child.is_dir()]


def tree(folder: Path, seen: set[str] = frozenset()) -> list[Path]:  # type: ignore[assignment]
    """Every visible path below, each folder once along a way down."""
    real = os.path.realpath(folder)
    found = []
    for child in children(folder) if real not in seen else []:
        found += [child, *(tree(child, seen | {real}) if child.is_dir() else [])]
    return found


def holds_image(folder: Path) -> bool:
    return any(path.is_file() and path.suffix.lower() in IMAGES for path in tree(folder))


def like_part(name: str) -> bool:
    return name.lower() in PART_OF or name in ALIKE


def same_word(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().lower()


def read(root: Path) -> Naive:
    found = Naive()
    _links(root, found)
    top = folders(root)
    parts = [folder for folder in top if folder.name.lower() in PART_OF]
    others = [folder for folder in top if folder not in parts and holds_image(folder)]
    roles = [PART_OF[folder.name.lower()] for folder in parts]
    found.faults += [{folder.name} for folder in others if folder.name in ALIKE]
    if parts:
        if others or len(set(roles)) < len(roles) or "train" not in roles or len(roles) < 2:
            found.faults.append({folder.name for folder in (*parts, *others)})
        for folder, role in zip(parts, roles, strict=True):
            rest = [folders(other) for other in parts if other != folder]
            _classes(folder, role, found, [{f.name for f in names} for names in rest])
    else:
        if any(like_part(inner.name) for folder in top for inner in folders(folder)):
            found.faults.append({folder.name for folder in (root, *top)})
        _classes(root, "all", found, [])
    found.stray += [f for f in children(root) if f.is_file() and f.suffix.lower() in IMAGES and parts]
    _compare_parts(parts, roles, found)
    return found


def _links(root: Path, found: Naive) -> None:
    """Dangling links, links into the tree, and folders met twice."""
    real_root, met = os.path.realpath(root), Counter[str]()
    for path in tree(root):
        target = os.path.realpath(path)
        if not path.exists():
            used = path.parent == root or any(visible(part) for part in path.relative_to(root).parts)
            found.faults += [{path.name}] if used else []
        elif path.is_dir():
            met[target] += 1
            if path.is_symlink() and (f"{target}/".startswith(f"{real_root}/") or real_root.startswith(f"{target}/")):
                found.faults.append({path.name})
            if met[target] > 1:
                found.faults.append({path.name})


def _classes(folder: Path, part: str, found: Naive, elsewhere: list[set[str]]) -> None:
    classes = folders(folder)
    if len(classes) < 2:
        found.faults.append({folder.name})
    words = Counter(same_word(c.name) for c in classes)
    found.faults += [{c.name} for c in classes if words[same_word(c.name)] > 1]
    for one in classes:
        both = elsewhere and all(one.name in names for names in elsewhere)
        if like_part(one.name) and (not both or folders(one)):
            found.faults.append({one.name})
        _one_class(one, part, found)
    found.stray += [f for f in children(folder) if f.is_file() and f.suffix.lower() in IMAGES]


def _one_class(folder: Path, part: str, found: Naive) -> None:
    name = unicodedata.normalize("NFC", folder.name)
    count = 0
    for path in tree(folder):
        if path.is_dir():
            if like_part(path.name) and holds_image(path):
                found.faults.append({path.name})
        elif path.is_file() and path.suffix.lower() in READ:
            before = next((p for p in found.images if os.path.samefile(p, path)), None)
            if before is None:
                found.images[path], found.part[path] = name, part
                count += 1
            elif folder in before.parents:
                found.twins.append(path)
            else:
                found.faults.append({path.name, before.name})
        elif path.is_file():
            found.unread[name, path.suffix.lower() or "without suffix"] += 1
    if count < (2 if part == "all" else 1):
        found.faults.append({folder.name})


def _compare_parts(parts: list[Path], roles: list[str], found: Naive) -> None:
    train = next((folder for folder, role in zip(parts, roles, strict=True) if role == "train"), None)
    if train is not None:
        known = {unicodedata.normalize("NFC", folder.name) for folder in folders(train)}
        for part in parts:
            strange = [f for f in folders(part) if unicodedata.normalize("NFC", f.name) not in known]
            found.faults += [{folder.name} for folder in strange]
