"""The pages of the site that no file of `docs/` holds: the front page, pages from elsewhere, and the API reference."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from convswap.units import get_unit, list_units

from .links import relink

ROOMS = ("units", "surgery", "models", "train", "measure", "see", "lab", "data", "testing")
"""Public rooms in the order of the reference; what a room hands on from an earlier one is described there."""

_LINK = re.compile(r"\]\((?P<path>[\w./-]+\.md)\)")
_HEADING = re.compile(r"^##\s+(?P<text>.+?)\s*$")


def moved_pages(repository: Path) -> dict[Path, Path]:
    """Pages outside of `docs/`, and the place that each has in the site."""
    docs = repository / "docs"
    places = {
        "README.md": "index.md",
        "CONTRIBUTING.md": "project/contributing.md",
        "CHANGELOG.md": "project/changelog.md",
        "benchmarks/README.md": "project/benchmarks.md",
    }
    return {repository / file: docs / place for file, place in places.items() if (repository / file).is_file()}


def generated(repository: Path) -> dict[Path, str]:
    """Path and text of every page that is not a file of `docs/`."""
    docs, moved = repository / "docs", moved_pages(repository)
    pages = {place: relink(file.read_text(encoding="utf-8"), file, place, moved) for file, place in moved.items()}
    rooms = public_rooms()
    described: dict[int, str] = {}
    for room in rooms:
        pages[docs / "api" / f"{room.__name__.rpartition('.')[2]}.rst"] = room_page(room, described)
    project = [place for place in moved.values() if place.parent != docs]
    pages[docs / "index.md"] += "\n" + "\n\n".join(
        [
            *(toctree(caption, entries) for caption, entries in sections(docs).items()),
            toctree("API reference", [f"api/{room.__name__.rpartition('.')[2]}" for room in rooms]),
            toctree("Project", [place.relative_to(docs).with_suffix("").as_posix() for place in project]),
        ]
    ) + "\n"  # fmt: skip
    return pages


def sections(docs: Path) -> dict[str, list[str]]:
    """The pages by the headings they stand under in `docs/README.md`. Units and hosts have captions of their own."""
    found: dict[str, list[str]] = {"Documents": ["README"]}
    caption = "Documents"
    for line in (docs / "README.md").read_text(encoding="utf-8").splitlines():
        heading = _HEADING.match(line)
        if heading:
            caption = heading["text"]
            continue
        for match in _LINK.finditer(line):
            entry = match["path"].removesuffix(".md")
            inside = not match["path"].startswith(("..", "units/", "hosts/"))
            if inside and all(entry not in entries for entries in found.values()):
                found.setdefault(caption, []).append(entry)
    for folder in ("units", "hosts"):
        names = sorted(page.stem for page in (docs / folder).glob("*.md") if page.stem != "README")
        if names:
            found[folder.capitalize()] = [f"{folder}/README", *(f"{folder}/{name}" for name in names)]
    return found


def toctree(caption: str, entries: list[str]) -> str:
    """A table of contents for the side of every page."""
    return f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(entries) + "\n```"


def public_rooms() -> list[ModuleType]:
    """The rooms that there are, the package itself last."""
    names = [name for name in ROOMS if importlib.util.find_spec(f"convswap.{name}") is not None]
    return [importlib.import_module(f"convswap.{name}") for name in names] + [importlib.import_module("convswap")]


def room_page(room: ModuleType, described: dict[int, str]) -> str:
    """The reference of one room, in reStructuredText.

    Args:
        room: a package with an `__all__`.
        described: where each object has its description; extended by those of this page.
    """
    groups: dict[str, list[str]] = {}
    for name in room.__all__:
        groups.setdefault(_group(getattr(room, name)), []).append(name)
    title = room.__name__
    parts = [f"{title}\n{'=' * len(title)}", f".. automodule:: {title}\n   :no-members:\n\n.. py:currentmodule:: None"]
    for group in ("Registered units", "Functions", "Classes", "Constants"):
        names = groups.get(group, [])
        if not names:
            continue
        targets = {name: _target(room, name, described) for name in names}
        own = [target for name, target in targets.items() if target == f"{title}.{name}"]
        parts.append(f"{group}\n{'-' * len(group)}")
        parts.append(".. autosummary::\n   :nosignatures:\n\n" + "\n".join(f"   ~{t}" for t in targets.values()))
        parts += [_directive(group, target) for target in own]
    return "\n\n".join(parts) + "\n"


def _group(value: object) -> str:
    if isinstance(value, type):
        registered = any(get_unit(name).cls is value for name in list_units())
        return "Registered units" if registered else "Classes"
    return "Functions" if inspect.isroutine(value) else "Constants"


def _target(room: ModuleType, name: str, described: dict[int, str]) -> str:
    """Where the reference describes an object: at its first room; strings and numbers have one place each."""
    value = getattr(room, name)
    if not isinstance(value, type) and not inspect.isroutine(value):
        return f"{room.__name__}.{name}"
    return described.setdefault(id(value), f"{room.__name__}.{name}")


def _directive(group: str, target: str) -> str:
    if group == "Functions":
        return f".. autofunction:: {target}"
    if group == "Constants":
        return f".. autodata:: {target}"
    return f".. autoclass:: {target}\n   :members:\n   :show-inheritance:"


def write(pages: dict[Path, str]) -> None:
    """Write pages, each into its folder."""
    for path, text in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def remove(pages: Iterable[Path]) -> None:
    """Remove pages, and the folders that this leaves empty."""
    for path in pages:
        path.unlink(missing_ok=True)
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()
