"""The list of mutants as data: one TOML file per room under `rooms/`.

    [[mutant]]
    name = "nesterov dropped"
    file = "src/convswap/train/optimizers.py"
    old = 'nesterov=recipe.nesterov'
    new = 'nesterov=False'
    tests = ["tests/train/test_optimizers.py", "tests/train"]
    equivalent = "why no test can notice"  # only where so

`file` and `tests` are relative to the repository. `tests` are pytest's arguments, one selection per entry: first the
file's own tests, then wider ones, which run only if the mutant survives the first.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOMS = Path(__file__).resolve().parent / "rooms"


class StaleMutant(Exception):
    """A mutant no longer fits the code. The message names the mutant and the reason."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One edit and the tests that should notice it."""

    room: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    equivalent: str | None = None

    @property
    def title(self) -> str:
        """`room/name`, which is unique."""
        return f"{self.room}/{self.name}"

    def mutated(self, root: Path) -> str:
        """The file's text with the edit; `StaleMutant` unless the old text occurs exactly once."""
        path = root / self.file
        if not path.is_file():
            raise StaleMutant(f"{self.title}: there is no {self.file}")
        text = path.read_text(encoding="utf-8")
        if (count := text.count(self.old)) != 1:
            raise StaleMutant(f"{self.title}: {self.file} holds the old text {count} times, not once: {self.old!r}")
        if self.old == self.new:
            raise StaleMutant(f"{self.title}: old and new text are the same")
        return text.replace(self.old, self.new)

    def test_files(self, root: Path) -> list[Path]:
        """The files that `tests` name; `StaleMutant` for a path that does not exist."""
        found: set[Path] = set()
        for selection in self.tests:
            words = [word.partition("::")[0] for word in shlex.split(selection) if word.startswith("tests/")]
            if not words:
                raise StaleMutant(f"{self.title}: the selection {selection!r} names no path under tests/")
            for word in words:
                path = root / word
                if not path.exists():
                    raise StaleMutant(f"{self.title}: there is no {word}")
                found |= set(path.rglob("*.py")) if path.is_dir() else {path}
        return sorted(found)

    def key(self, root: Path) -> str:
        """Hash of everything that decides the outcome: the edit, the edited file, and the tests."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        for path in [root / self.file, *self.test_files(root)]:
            digest.update(path.read_bytes())
        return digest.hexdigest()


def read_mutants(folder: Path = ROOMS) -> list[Mutant]:
    """All mutants, by room; two of one name are a `StaleMutant`."""
    mutants = [
        Mutant(room=path.stem, **row | {"tests": tuple(row["tests"])})
        for path in sorted(folder.glob("*.toml"))
        for row in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    ]
    _refuse_twins(mutants)
    return mutants


def _refuse_twins(mutants: Iterable[Mutant]) -> None:
    seen: set[str] = set()
    for mutant in mutants:
        if mutant.title in seen:
            raise StaleMutant(f"{mutant.title}: two mutants have this name")
        seen.add(mutant.title)
