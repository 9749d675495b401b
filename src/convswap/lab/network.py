"""What a trial's network is, beyond its name: a hash over the built network, and over the source of a user's function.

A name alone does not say which network it means. A user edits the function, and a new version of timm builds another
network under the same name.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ..models.own import is_own
from ..train.checkpoint import describe_model

if TYPE_CHECKING:
    from torch import nn


def describe_network(name: str, model: nn.Module) -> dict[str, str | None]:
    """A built network in the form that a trial holds. Equal networks give equal descriptions on every machine.

    Args:
        name: the name that `create_model` was given.
        model: what it returned.

    Returns:
        `structure`: sha256 over module types, their printed forms, and names, dtypes and shapes of the tensors, in
        order. `source`: for a `package.module:function` of the user, sha256 over the bytes of that module's file and
        of the files beside it that it imports, directly or not. None for other names, and where there is no file.
    """
    structure = sha256("\n".join(describe_model(model)).encode()).hexdigest()
    return {"structure": structure, "source": source_of(name)}


def source_of(name: str) -> str | None:
    """The `source` of `describe_network`, once the model's module is imported."""
    module = sys.modules.get(name.partition(":")[0]) if is_own(name) else None
    return None if module is None else _source(module)


@lru_cache(maxsize=64)
def _source(module: ModuleType) -> str | None:
    """The hash of a module's source. Kept, because Python goes on with what it imported when a file is edited."""
    files = source_files(module)
    digest = sha256()
    for name, file in sorted(files.items()):
        digest.update(f"{name} {sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest() if files else None


def source_files(module: ModuleType) -> dict[str, Path]:
    """The files that a module's code lies in, by module: its own, and those under the same root that it imports.

    The root is the folder from which the module's name leads to its file. Of an installed package only its own files
    count, and not those of the packages installed beside it.
    """
    name, file = module.__name__, getattr(module, "__file__", None)
    if file is None:
        return {}
    path = Path(file)
    root = path.parents[name.count(".") + (path.name == "__init__.py")]
    installed = root in {Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib")}
    found: dict[str, Path] = {}
    todo = [(name, path)]
    while todo:
        name, path = todo.pop()
        found[name] = path
        for other in _imports(name, path):
            same = other.partition(".")[0] == module.__name__.partition(".")[0]
            place = _place(root, other) if same or not installed else None
            if place is not None and other not in found:
                todo.append((other, place))
    return found


def _place(root: Path, name: str) -> Path | None:
    stem = root.joinpath(*name.split("."))
    choices = (stem / "__init__.py", stem.with_name(f"{stem.name}.py"))
    return next((choice for choice in choices if choice.is_file()), None)


def _imports(name: str, path: Path) -> Iterator[str]:
    """The names of modules that a file may import, and of the packages around them."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a compiled module: its bytes are its source
        return
    wanted = [package]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            wanted += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    for dotted in filter(None, wanted):
        parts = dotted.split(".")
        yield from (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
