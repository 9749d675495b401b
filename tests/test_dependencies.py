"""What is imported is declared, what is declared is imported, and one table says what every extra is for."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from convswap.packages import OPTIONAL, find_optional

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

# Names under which Python imports a distribution of another name.
IMPORTED_AS = {
    "lightning-fabric": "lightning_fabric",
    "pillow": "PIL",
    "pillow-heif": "pillow_heif",
    "scikit-learn": "sklearn",
    "segmentation-models-pytorch": "segmentation_models_pytorch",
    "torch-pruning": "torch_pruning",
    "pytest-xdist": "xdist",
    "vl-convert-python": "vl_convert",
}
# What a declared distribution brings along, imported only where it did.
BROUGHT_ALONG = {"triton": "torch", "vl_convert": "altair", "huggingface_hub": "timm"}
IN_TESTS_ONLY = ("huggingface_hub", "lab")
OWN = {"convswap", "benchmarks", "convswap_site"}
# Run, and never imported.
TOOLS = {"ruff", "mypy", "pytest-xdist", "clang-format"}
# In an environment of its own, see the script's first lines.
FOREIGN = {"benchmarks/kernels/larq_peer.py": {"larq", "larq_compute_engine", "tensorflow"}}
# Imported where the user has them, and brought by no extra: too large for one, or (ultralytics) AGPL-3.0.
USERS_OWN = {
    "src/convswap/hosts/ultralytics.py": {"ultralytics"},
    "tests/hosts/test_ultralytics.py": {"ultralytics"},
}


def _distribution(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert found is not None
    return found[0].lower()


def _module(requirement: str) -> str:
    name = _distribution(requirement)
    return IMPORTED_AS.get(name, name)


def _imported(file: Path) -> Iterator[str]:
    """Third-party packages of a file, also inside functions and by `pytest.importorskip`; no modules beside it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("importorskip"):
            names = [node.args[0].value] if isinstance(node.args[0], ast.Constant) else []
        for name in names:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in OWN and not _beside(file, top):
                yield top


def _beside(file: Path, name: str) -> bool:
    """Is this a module that a script finds beside itself? Within the package an absolute import finds none there."""
    scripts = [folder for folder in file.parents if ROOT in folder.parents and ROOT / "src" not in folder.parents]
    return any((folder / f"{name}.py").is_file() for folder in scripts)


def _all_imported(*folders: str) -> dict[str, set[str]]:
    """Package -> the files that import it."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            place = file.relative_to(ROOT).as_posix()
            for package in _imported(file):
                if package not in FOREIGN.get(place, ()) and package not in USERS_OWN.get(place, ()):
                    found.setdefault(package, set()).add(place)
    return found


def test_every_import_of_the_package_is_declared() -> None:
    shipped = [*PROJECT["dependencies"], *(r for name, rows in EXTRAS.items() if name != "dev" for r in rows)]
    declared = {_module(requirement) for requirement in shipped}
    undeclared = {
        package: sorted(files)
        for package, files in _all_imported("src").items()
        if package not in declared and BROUGHT_ALONG.get(package) not in declared
    }
    assert not undeclared, "declare these in pyproject.toml"


def test_every_import_of_tests_and_benchmarks_is_declared() -> None:
    declared = {_module(r) for r in [*PROJECT["dependencies"], *(r for rows in EXTRAS.values() for r in rows)]}
    undeclared = {
        package: sorted(files)
        for package, files in _all_imported("tests", "benchmarks").items()
        if package not in declared and BROUGHT_ALONG.get(package) not in declared
    }
    assert not undeclared, "declare these in pyproject.toml, in the extra dev"


def test_every_declaration_is_imported() -> None:
    shipped = _all_imported("src")
    idle = {
        f"{extra or 'core'}: {requirement}"
        for extra, rows in {"": PROJECT["dependencies"], **EXTRAS}.items()
        for requirement in rows
        if extra not in ("dev", "docs", "hosts") and _module(requirement) not in shipped
    }
    site = (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
    named = {"sphinx", *re.findall(r'"(\w+)"', site)}
    idle |= {f"docs: {r}" for r in EXTRAS["docs"] if _module(r).replace("-", "_") not in named}
    everywhere = _all_imported("tests", "benchmarks", "src")
    recipes = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "hosts").glob("*.md"))
    idle |= {f"hosts: {r}" for r in EXTRAS["hosts"] if not re.search(rf"^import .*\b{_module(r)}\b", recipes, re.M)}
    tools = {_distribution(requirement) for requirement in EXTRAS["dev"]} - TOOLS - {"convswap"}
    idle |= {f"dev: {name}" for name in tools if IMPORTED_AS.get(name, name) not in everywhere}
    assert not idle, "nothing imports these: take them out of pyproject.toml"


def test_the_table_of_optional_packages_is_that_of_the_extras() -> None:
    declared = {
        (_module(r), extra) for extra, rows in EXTRAS.items() if extra in {p.extra for p in OPTIONAL} for r in rows
    }
    brought = {(name, "lab") for name, by in BROUGHT_ALONG.items() if (by, "lab") in declared} - {IN_TESTS_ONLY}
    assert {(package.name, package.extra) for package in OPTIONAL} == declared | brought
    assert {"lab", "onnx"} <= {package.extra for package in OPTIONAL}
    for package in OPTIONAL:
        assert IMPORTED_AS.get(package.installed_as, package.installed_as) == package.name
        assert find_optional(f"{package.name}.inside") is package


def test_names_that_differ_are_in_use() -> None:
    everything = {_distribution(r) for rows in EXTRAS.values() for r in rows}
    assert set(IMPORTED_AS) - {"vl-convert-python"} <= everything  # that one comes with altair[save]
    assert {_distribution(r) for r in EXTRAS["dev"]} >= TOOLS
    for script in FOREIGN:
        assert (ROOT / script).is_file()
