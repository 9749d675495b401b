"""Find and open the library of native kernels, once, and know why when there is none."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

#: A folder with a library to use instead of the installed one. Its sources are not compared.
FOLDER_VARIABLE = "CONVSWAP_NATIVE_BUILD"

_REBUILD = "run `python -m convswap.ops.native.build`"


class Loader:
    """The lazily opened library; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._settled = False
        self._library: ctypes.CDLL | None = None
        self._reason: str | None = None
        self._features: frozenset[str] | None = None

    def library(self) -> ctypes.CDLL | None:
        """The opened library, or None (then `reason` says why)."""
        if not self._settled:
            with self._lock:
                if not self._settled:
                    self._library, self._reason = _open()
                    self._settled = True
        return self._library

    def reason(self) -> str | None:
        """Why there is no library; None when there is one."""
        self.library()
        return self._reason

    def features(self) -> frozenset[str]:
        """Instruction sets that this processor and system can run, by the library's own check."""
        if self._features is None:
            library = self.library()
            self._features = frozenset() if library is None else _features(library)
        return self._features

    def forget(self) -> None:
        """Look again at the next call (after a build, or a change of the environment)."""
        with self._lock:
            self._settled, self._library, self._reason, self._features = False, None, None, None


def library_path() -> Path:
    """The path at which the library is expected."""
    from . import build  # late, as `python -m` warns about a module that is imported already

    given = os.environ.get(FOLDER_VARIABLE)
    return (Path(given).expanduser() if given else build.FOLDER) / build.LIBRARY


def _open() -> tuple[ctypes.CDLL | None, str | None]:
    from . import build

    if reason := build.why_switched_off():
        return None, reason
    path = library_path()
    if not path.is_file():
        note = path.with_name(build.REASON)
        why = f" at installation: {note.read_text(encoding='utf-8').strip()}" if note.is_file() else ""
        return None, f"not built{why or f' (no {path.name} in {path.parent})'}; with a C++ compiler, {_REBUILD}"
    try:
        library = ctypes.CDLL(str(path))
        library.convswap_source_hash.restype = ctypes.c_char_p
        found = (library.convswap_source_hash() or b"").decode()
    except (OSError, AttributeError) as error:
        return None, f"cannot be loaded: {error}; {_REBUILD}"
    if not os.environ.get(FOLDER_VARIABLE) and found != build.source_hash():
        return None, f"{path} was built from other sources (a stale build); {_REBUILD}"
    _join_openmp(library)
    return library, None


def _join_openmp(library: ctypes.CDLL) -> None:
    """Let the kernels run on the threads of torch's OpenMP runtime, whose functions are visible in the process.

    If torch has none, or the library is of older sources, the kernels compute on the calling thread.
    """
    process = ctypes.CDLL(None)
    needed = [(process, "GOMP_parallel"), (process, "omp_get_max_threads"), (library, "convswap_join_openmp")]
    if all(hasattr(place, name) for place, name in needed):
        library.convswap_join_openmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        library.convswap_join_openmp(
            ctypes.cast(process.GOMP_parallel, ctypes.c_void_p),
            ctypes.cast(process.omp_get_max_threads, ctypes.c_void_p),
        )


def _features(library: ctypes.CDLL) -> frozenset[str]:
    library.convswap_cpu_feature_name.restype = ctypes.c_char_p
    library.convswap_cpu_feature_name.argtypes = [ctypes.c_int]
    library.convswap_cpu_has_feature.argtypes = [ctypes.c_int]
    names: list[str] = []
    while (name := library.convswap_cpu_feature_name(len(names))) is not None:
        names.append(name.decode())
    return frozenset(name for index, name in enumerate(names) if library.convswap_cpu_has_feature(index))
