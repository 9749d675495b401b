"""Build the one shared library of all native kernels: `python -m convswap.ops.native.build`.

This needs only a C++17 compiler (`$CXX`, else c++, g++ or clang++; g++ >= 9 or clang >= 10) and Python's standard
library: the build at install loads this file by its path, and torch may be missing then. Sources are all
`convswap/ops/**/csrc/*.cpp`. They are compiled for the base instruction set of the machine. Functions for newer
instructions carry target attributes and run behind a check of the processor.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

OPS = Path(__file__).resolve().parent.parent
FOLDER = Path(__file__).resolve().parent / "_build"
LIBRARY = "libconvswap_native.dylib" if sys.platform == "darwin" else "libconvswap_native.so"
#: A file in place of the library that says why an installation has none.
REASON = "not_built.txt"

_BASE = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-pthread", "-fno-math-errno", "-ffp-contract=off")
_WARN = ("-Wall", "-Wextra")
# GCC wrongly reports variables of its own AVX-512 headers as uninitialised.
_GCC_NOISE = ("-Wno-uninitialized", "-Wno-maybe-uninitialized")
SANITIZERS = ("address", "undefined", "thread")


class BuildError(RuntimeError):
    """The library could not be built. The message says why and includes the compiler's output."""


@dataclass(frozen=True)
class Built:
    """The result of a build: the library, whether it was already there, and the compiler."""

    path: Path
    fresh: bool
    compiler: str


def sources(ops: Path = OPS, only: Sequence[str] = ()) -> list[Path]:
    """Every C++ source, sorted; `only` keeps the named folders of ops (and always `native`)."""
    found = sorted(ops.glob("**/csrc/*.cpp"))
    if not only:
        return found
    unknown = [name for name in only if not (ops / name).is_dir()]
    if unknown:
        raise BuildError(f"no folder {', '.join(unknown)} in {ops}")
    return [file for file in found if file.relative_to(ops).parts[0] in {*only, "native"}]


def headers(ops: Path = OPS) -> list[Path]:
    """Every C++ header, sorted."""
    return sorted(ops.glob("**/csrc/*.h"))


def source_hash(ops: Path = OPS) -> str:
    """A fingerprint of all sources and headers. The library carries the fingerprint of its own sources."""
    return _digest([*headers(ops), *sources(ops)], ops)


def _digest(files: Iterable[Path], ops: Path, *words: str) -> str:
    digest = hashlib.sha256("\0".join(words).encode())
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.relative_to(ops).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def why_switched_off(variable: str = "CONVSWAP_NATIVE") -> str | None:
    """Why the kernels are switched off: this environment variable is 0, no, off or false. None otherwise."""
    value = os.environ.get(variable, "").strip()
    return f"switched off by {variable}={value}" if value.lower() in {"0", "no", "off", "false"} else None


def find_compiler() -> list[str]:
    """The command of the C++ compiler: `$CXX` (with its options) if set, else the first of c++, g++, clang++.

    Raises: BuildError: none is found, or `$CXX` does not exist.
    """
    given = shlex.split(os.environ.get("CXX", ""))
    if given:
        if shutil.which(given[0]) is None:
            raise BuildError(f"CXX names {given[0]!r}, which is not found")
        return given
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise BuildError("no C++ compiler found (looked for $CXX, c++, g++ and clang++)")


def build(
    folder: Path = FOLDER,
    *,
    ops: Path = OPS,
    only: Sequence[str] = (),
    sanitize: Sequence[str] | None = None,
    flags: Sequence[str] = (),
    force: bool = False,
    jobs: int | None = None,
) -> Built:
    """Compile changed sources and link the library into `folder`. The old library is replaced in one step.

    `only` builds some folders of ops; `sanitize` names sanitizers (address, undefined, thread), by default those in
    CONVSWAP_NATIVE_SANITIZE; `flags` go to the compiler last. Several builds into one folder wait for one another.

    Raises: BuildError: there is no compiler, or it failed.
    """
    if sys.platform == "win32":
        raise BuildError("native kernels are not built on Windows: they need g++ or clang++ and POSIX threads")
    if sanitize is None:
        sanitize = _split(os.environ.get("CONVSWAP_NATIVE_SANITIZE", ""))
    unknown = [name for name in sanitize if name not in SANITIZERS]
    if unknown:
        raise BuildError(f"unknown sanitizer {', '.join(unknown)}; choose from {', '.join(SANITIZERS)}")
    compiler = find_compiler()
    identity = _run([*compiler, "--version"]).strip()
    clang = "clang" in identity
    noise = () if clang else _GCC_NOISE
    options = [*_BASE, *_WARN, *noise, *_sanitizer_flags(sanitize, clang), *flags]
    files = sources(ops, only)
    recipe = Path(__file__).read_text(encoding="utf-8")
    key = _digest(files, ops, source_hash(ops), recipe, identity, platform.machine(), *options)
    library, stamp = folder / LIBRARY, folder / "stamp"
    if not force and library.is_file() and stamp.is_file() and stamp.read_text(encoding="utf-8").strip() == key:
        return Built(library, False, identity.splitlines()[0])

    try:
        (folder / "objects").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"cannot write to {folder}: {error}") from error
    with _alone(folder / "lock"):
        made = _compile([*compiler, *options], files, folder / "objects", ops, identity, force, jobs)
        _link(compiler, made, library, sanitize, flags)
        _replace_text(stamp, key)
        for old in set((folder / "objects").glob("*.o")) - set(made):
            old.unlink(missing_ok=True)
    return Built(library, True, identity.splitlines()[0])


def _compile(
    command: list[str], files: list[Path], objects: Path, ops: Path, identity: str, force: bool, jobs: int | None
) -> list[Path]:
    """One object per source, several at once. Objects made before from the same text and options are kept."""
    common = _digest(headers(ops), ops, identity, platform.machine(), *command)
    fingerprint = source_hash(ops)

    def compile_one(file: Path) -> Path:
        words = [f'-DCONVSWAP_SOURCE_HASH="{fingerprint}"'] if file.name == "version.cpp" else []
        target = objects / f"{file.stem}-{_digest([file], ops, common, *words)}.o"
        if force or not target.is_file():
            _produce([*command, *words, "-c", str(file)], target)
        return target

    with concurrent.futures.ThreadPoolExecutor(jobs or os.cpu_count() or 1) as workers:
        return list(workers.map(compile_one, files))


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    # Not filelock: the build at install has the standard library and hatchling only.
    import fcntl  # not there on Windows, where nothing is built

    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed
        yield


def _sanitizer_flags(sanitize: Sequence[str], clang: bool) -> list[str]:
    if not sanitize:
        return []
    flags = [f"-fsanitize={','.join(sanitize)}", "-g1", "-O1", "-fno-omit-frame-pointer"]
    # Kernels keep their sums in local arrays that live in registers. Instrumenting these as stack memory takes the
    # compiler many minutes and finds nothing about tensors and scratch memory, which are on the heap.
    if "address" in sanitize:
        flags += ["-fno-sanitize-address-use-after-scope"]
        flags += ["-mllvm", "-asan-stack=0"] if clang else ["--param=asan-stack=0"]
    if "undefined" in sanitize:
        flags += ["-fno-sanitize-recover=undefined", "-fno-sanitize=null,object-size"]
    return flags


def _link(
    compiler: list[str], objects: list[Path], library: Path, sanitize: Sequence[str], flags: Sequence[str]
) -> None:
    command = [*compiler, "-shared", "-pthread", *flags, *map(str, objects)]
    if sanitize:
        _produce([*command, f"-fsanitize={','.join(sanitize)}"], library)
        return
    if not sys.platform.startswith("linux"):
        _produce(command, library)
        return
    exports = library.parent / "exports.map"
    _replace_text(exports, "{ global: convswap_*; local: *; };")
    command += ["-Wl,-z,nodelete", "-Wl,-z,noexecstack", f"-Wl,--version-script={exports}"]
    # The C++ runtime is linked into the library, because the one beside torch may be older than this compiler's.
    own_runtime = ["-static-libgcc", "-static-libstdc++"]
    try:
        _produce([*command, *own_runtime], library)
    except BuildError:
        _produce(command, library)


def _produce(command: list[str], target: Path) -> None:
    """Run a compiler that writes `target`. It writes a temporary file, which is then moved into place."""
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    try:
        _run([*command, "-o", temporary])
        os.chmod(temporary, 0o755)
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _replace_text(target: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    os.chmod(temporary, 0o644)
    os.replace(temporary, target)


def _run(command: list[str]) -> str:
    # Libraries preloaded for this process (the runtime of a sanitizer) are not meant for the compiler.
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    except OSError as error:
        raise BuildError(f"cannot run {command[0]}: {error}") from error
    if done.returncode != 0:
        words = done.stderr.strip() or done.stdout.strip()
        raise BuildError(f"{shlex.join(command)}\nended with {done.returncode}:\n{words}")
    if done.stderr.strip() and "-c" in command:
        print(done.stderr.strip(), file=sys.stderr)  # warnings
    return done.stdout


def _split(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m convswap.ops.native.build", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=FOLDER, metavar="FOLDER", help="folder for the library")
    parser.add_argument("--only", default="", metavar="A,B", help="folders of ops to build (native comes with them)")
    parser.add_argument("--sanitize", default="", metavar="A,B", help=f"sanitizers: {', '.join(SANITIZERS)}")
    parser.add_argument("--flags", default="", help="more options for the compiler, in one string")
    parser.add_argument("--force", action="store_true", help="compile everything again")
    parser.add_argument("--jobs", type=int, default=None, help="compilers at once (default: one per core)")
    given = parser.parse_args(arguments)
    try:
        made = build(
            given.output.resolve(),
            only=_split(given.only),
            sanitize=_split(given.sanitize) or None,
            flags=shlex.split(given.flags),
            force=given.force,
            jobs=given.jobs,
        )
    except BuildError as error:
        print(f"not built: {error}", file=sys.stderr)
        return 1
    print(f"{'built' if made.fresh else 'up to date'}: {made.path} ({made.compiler})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
