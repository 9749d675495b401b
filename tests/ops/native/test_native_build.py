"""The builder: finds a compiler or says why not, compiles what changed, and replaces the library in one step."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from compilers import needs_compiler

import convswap
from convswap.ops.native import build

ROOT = Path(convswap.__file__).parents[2]


@pytest.fixture
def ops(tmp_path: Path) -> Path:
    """A small tree of sources: `native` with the fingerprint, `other` with one function."""
    ops = tmp_path / "ops"
    for name in ("native", "other"):
        (ops / name / "csrc").mkdir(parents=True)
    for name in ("version.cpp", "api.h"):
        original = build.OPS / "native" / "csrc" / name
        (ops / "native" / "csrc" / name).write_bytes(original.read_bytes())
    write(ops, "return 7;")
    return ops


def write(ops: Path, body: str) -> None:
    text = f'#include "../../native/csrc/api.h"\nCONVSWAP_API int convswap_other() {{ {body} }}\n'
    (ops / "other" / "csrc" / "other.cpp").write_text(text)


def ask(library: Path) -> tuple[int, str]:
    """What a library answers, asked in another process (an opened one is not opened again)."""
    program = (
        "import ctypes, sys\nlibrary = ctypes.CDLL(sys.argv[1])\n"
        "library.convswap_source_hash.restype = ctypes.c_char_p\n"
        "print(library.convswap_other(), library.convswap_source_hash().decode())"
    )
    done = subprocess.run([sys.executable, "-c", program, str(library)], capture_output=True, text=True, check=True)
    number, fingerprint = done.stdout.split()
    return int(number), fingerprint


def without_compiler(monkeypatch: pytest.MonkeyPatch, empty: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(empty))


@needs_compiler
def test_only_what_changed_is_compiled(ops: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    first = build.build(folder, ops=ops)
    assert first.fresh
    assert ask(first.path) == (7, build.source_hash(ops))
    before = {file.name: file.stat().st_mtime_ns for file in (folder / "objects").iterdir()}
    assert not build.build(folder, ops=ops).fresh

    write(ops, "return 8;")
    assert build.build(folder, ops=ops).fresh
    assert ask(first.path) == (8, build.source_hash(ops))
    after = {file.name: file.stat().st_mtime_ns for file in (folder / "objects").iterdir()}
    assert len(after) == 2
    assert not set(before.items()) & set(after.items())  # the fingerprint and the function are both new

    assert build.build(folder, ops=ops, flags=["-DSOMETHING"]).fresh
    assert build.build(folder, ops=ops, flags=["-DSOMETHING"], force=True).fresh
    assert build.build(folder, ops=ops, only=["native"]).fresh
    assert not hasattr(ctypes.CDLL(str(first.path)), "convswap_other")


@needs_compiler
def test_an_object_is_kept_when_another_source_changes(ops: Path, tmp_path: Path) -> None:
    (ops / "other" / "csrc" / "third.cpp").write_text("int third() { return 3; }\n")
    build.build(tmp_path / "out", ops=ops)
    objects = tmp_path / "out" / "objects"
    kept = {file.name: file.stat().st_mtime_ns for file in objects.glob("third-*.o")}
    write(ops, "return 9;")
    build.build(tmp_path / "out", ops=ops)
    assert {file.name: file.stat().st_mtime_ns for file in objects.glob("third-*.o")} == kept


@needs_compiler
def test_a_failing_build_keeps_the_old_library(ops: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    made = build.build(folder, ops=ops)
    old = ask(made.path)
    write(ops, "return nothing_known;")
    with pytest.raises(build.BuildError, match="nothing_known"):
        build.build(folder, ops=ops)
    assert ask(made.path) == old
    assert not list(folder.rglob(".lib*")) + list(folder.rglob(".*.o.*"))  # no litter


@needs_compiler
def test_builds_at_once_into_one_folder(ops: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: build.build(tmp_path / "out", ops=ops, jobs=1), range(4)))
    assert ask(made[0].path) == (7, build.source_hash(ops))


@needs_compiler
def test_only_our_symbols_leave_the_library(ops: Path, tmp_path: Path) -> None:
    (ops / "other" / "csrc" / "shown.cpp").write_text(
        '#include <mutex>\nextern "C" __attribute__((visibility("default"))) void stray() { std::mutex m; m.lock(); }\n'
    )
    library = ctypes.CDLL(str(build.build(tmp_path / "out", ops=ops).path))
    assert hasattr(library, "convswap_other")
    if sys.platform.startswith("linux"):
        assert not hasattr(library, "stray")


def test_no_compiler_is_said(ops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_compiler(monkeypatch, tmp_path)
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler found .*CXX, c\+\+, g\+\+ and clang\+\+"):
        build.build(tmp_path / "out", ops=ops)
    monkeypatch.setenv("CXX", "surely-no-compiler -O1")
    with pytest.raises(build.BuildError, match="'surely-no-compiler', which is not found"):
        build.build(tmp_path / "out", ops=ops)


def test_windows_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(build.BuildError, match="Windows"):
        build.build(tmp_path)


@needs_compiler
def test_a_folder_that_cannot_be_made_is_said(ops: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(build.BuildError, match="cannot write"):
        build.build(tmp_path / "file" / "out", ops=ops)


@needs_compiler
def test_wrong_words_are_said(ops: Path, tmp_path: Path) -> None:
    with pytest.raises(build.BuildError, match="unknown sanitizer memory; choose from address, undefined, thread"):
        build.build(tmp_path, ops=ops, sanitize=["memory"])
    with pytest.raises(build.BuildError, match="no folder nothing"):
        build.build(tmp_path, ops=ops, only=["nothing"])


def test_the_command_line_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_compiler(monkeypatch, tmp_path)
    assert build.main(["--output", str(tmp_path / "out")]) == 1
    assert "not built: no C++ compiler found" in capsys.readouterr().err


@needs_compiler
def test_the_command_line_builds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "convswap.ops.native.build", "--only", "native", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("built: ")
    assert not done.stderr
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout.startswith("up to date: ")


def test_the_builder_needs_no_torch() -> None:
    """The installation loads the file by its path, with nothing but the standard library."""
    program = (
        "import sys, importlib.util as u\n"
        f"spec = u.spec_from_file_location('builder', {str(build.__file__)!r})\n"
        "module = u.module_from_spec(spec)\nsys.modules['builder'] = module\nspec.loader.exec_module(module)\n"
        "assert module.sources() and 'torch' not in sys.modules and 'convswap' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-I", "-c", program], check=True)


@pytest.fixture
def project(ops: Path, tmp_path: Path) -> Path:
    """A project of few sources with the build files of this one."""
    pytest.importorskip("hatchling")
    if not (ROOT / "hatch_build.py").is_file():
        pytest.skip("not a checkout")
    project = tmp_path / "project"
    house = project / "src" / "convswap" / "ops"
    house.parent.mkdir(parents=True)
    ops.rename(house)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        (project / name).write_bytes((ROOT / name).read_bytes())
    for name in ("src/convswap/_version.py", "src/convswap/ops/native/build.py"):
        (project / name).write_bytes((ROOT / name).read_bytes())
    return project


def wheel(project: Path, environment: dict[str, str]) -> tuple[zipfile.ZipFile, str]:
    """The wheel of a project, and what was printed; neither tree is written to."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "out"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = (project / "out").glob("*.whl")
    assert not (project / "src/convswap/ops/native/_build").exists()
    return zipfile.ZipFile(made), done.stdout + done.stderr


def tags(made: zipfile.ZipFile) -> str:
    name = next(name for name in made.namelist() if name.endswith(".dist-info/WHEEL"))
    return made.read(name).decode()


@needs_compiler
def test_a_wheel_holds_the_library(project: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "CONVSWAP_NATIVE"}
    made, _ = wheel(project, environment)
    assert f"convswap/ops/native/_build/{build.LIBRARY}" in made.namelist()
    assert "convswap/ops/native/csrc/version.cpp" in made.namelist()
    assert "Root-Is-Purelib: false" in tags(made)
    assert "Tag: py3-none-any" not in tags(made)
    assert "Tag: py3-none-" in tags(made)


@pytest.mark.parametrize("how", ["no compiler", "a failing compiler", "switched off"])
def test_a_wheel_without_a_library_is_pure_python(project: Path, tmp_path: Path, how: str) -> None:
    environment = {**os.environ, "CONVSWAP_NATIVE": "0" if how == "switched off" else ""}
    environment.pop("CXX", None)
    if how == "no compiler":
        environment["PATH"] = str(tmp_path)
    if how == "a failing compiler":
        environment["CXX"] = str(tmp_path / "failing")
        (tmp_path / "failing").write_text(
            "#!/bin/sh\n[ $1 = --version ] || { echo failed >&2; exit 1; }\necho broken\n"
        )
        (tmp_path / "failing").chmod(0o755)
    made, printed = wheel(project, environment)
    reason = made.read(f"convswap/ops/native/_build/{build.REASON}").decode()
    expected = {"no compiler": "no C++ compiler", "a failing compiler": "failed", "switched off": "CONVSWAP_NATIVE=0"}
    assert expected[how] in reason
    assert "installed without native kernels" in printed
    assert not [name for name in made.namelist() if name.endswith(build.LIBRARY)]
    assert "Root-Is-Purelib: true" in tags(made)
    assert "Tag: py3-none-any" in tags(made)


def test_a_library_can_be_required(project: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "CONVSWAP_NATIVE": "1", "PATH": str(tmp_path)}
    environment.pop("CXX", None)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "out"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "no C++ compiler" in done.stderr
