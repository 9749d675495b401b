"""The Sphinx extension of this site: pages from elsewhere, unit cards, links and docstrings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from convswap.units import list_units

from . import docstrings, pages
from .cards import enriched, find_cards, grid
from .gallery import draw_gallery
from .links import relink
from .records import measured

__all__ = ["setup"]


class _Site:
    """What the hooks share within one build."""

    def __init__(self, app: Any) -> None:
        self.docs = Path(app.srcdir)
        self.repository = self.docs.parent
        self.moved = pages.moved_pages(self.repository)
        self.generated = pages.generated(self.repository)
        pages.write(self.generated)
        self.cards = find_cards(self.docs / "units")
        # Sphinx copies what pages show into the site; the originals stay with its other intermediate files.
        drawn = draw_gallery(Path(app.doctreedir).parent / f"{Path(app.doctreedir).name}-pictures", list_units())
        self.pictures = {
            name: [(os.path.relpath(path, self.docs / "units").replace(os.sep, "/"), alt) for path, alt in found]
            for name, found in drawn.items()
        }
        results = self.repository / "benchmarks" / "results"
        self.measured = measured(results, list_units(), self.docs / "units" / "README.md")

    def finish(self, app: Any, exception: Exception | None) -> None:
        """Leave `docs/` as it was, also after a failed build."""
        pages.remove(self.generated)

    def outdated(self, app: Any, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
        """Pages to read again though their files are as they were: what a unit's page shows comes from elsewhere."""
        names = {env.path2doc(str(page)) for page in (*self.cards.values(), self.docs / "units" / "README.md")}
        return sorted(names & set(env.all_docs))

    def read(self, app: Any, name: str, content: list[str]) -> None:
        """Turn links, and put into the pages of units what the registry and the records say."""
        page = Path(app.env.doc2path(name))
        if page.suffix != ".md" or page in self.moved.values():
            return
        text = relink(content[0], page, page, self.moved)
        if page in self.cards.values():
            text = enriched(text, self.pictures, self.measured)
        elif page == self.docs / "units" / "README.md":
            before, table, after = text.partition("\n| ")
            text = f"{before}\n{grid(self.pictures, list(self.cards))}\n{table}{after}"
        content[0] = text


def _open_downloads(app: Any, name: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Let a browser show a linked report or record; it offers to keep a file that it cannot show."""
    if "body" in context:
        context["body"] = context["body"].replace(' download=""', "")


def _start(app: Any) -> None:
    site = _Site(app)
    app.connect("source-read", site.read)
    app.connect("env-get-outdated", site.outdated)
    app.connect("build-finished", site.finish)


def setup(app: Any) -> dict[str, Any]:
    """Connect the hooks."""
    app.connect("builder-inited", _start)
    app.connect("autodoc-process-docstring", docstrings.process, priority=400)  # napoleon has 500
    app.connect("html-page-context", _open_downloads)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
