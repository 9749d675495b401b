"""The threads of the kernels: every task once, from many callers, in children, and to the very end of a process."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from compilers import needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st

from convswap.ops.native import build

HERE = Path(__file__).parent
OPENMP = hasattr(ctypes.CDLL(None), "GOMP_parallel")

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """threads.cpp as the library has it, and beside it functions that count who does what."""
    target = tmp_path_factory.mktemp("threads") / "visit.so"
    sources = [HERE / "visit.cpp", build.OPS / "native" / "csrc" / "threads.cpp"]
    options = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-shared", "-fPIC"]
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    command = [*build.find_compiler(), *options, *map(str, sources), "-o", str(target)]
    subprocess.run(command, check=True, env=environment)
    return target


@pytest.fixture(scope="module")
def library(path: Path) -> ctypes.CDLL:
    """The compiled threads, opened."""
    opened = ctypes.CDLL(str(path))
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    opened.visit.argtypes = [ctypes.c_int, number, number, ctypes.c_int, pointer]
    opened.visit_nested.argtypes = [ctypes.c_int, number, number, pointer]
    opened.convswap_join_openmp.argtypes = [pointer, pointer]
    return opened


@pytest.fixture(scope="module", params=["alone", "openmp"])
def team(library: ctypes.CDLL, request: pytest.FixtureRequest) -> Iterator[str]:
    """Whose threads do the work: the caller's own, or those of torch's OpenMP runtime."""
    process = ctypes.CDLL(None)
    if request.param == "openmp":
        if not OPENMP:
            pytest.skip("this torch has no OpenMP")
        functions = process.GOMP_parallel, process.omp_get_max_threads
        library.convswap_join_openmp(*(ctypes.cast(function, ctypes.c_void_p) for function in functions))
    yield request.param
    library.convswap_join_openmp(None, None)


def visit(library: ctypes.CDLL, threads: int, tasks: int, chunks: int, work: int = 0) -> tuple[torch.Tensor, int]:
    """How often every task was done, and the number of threads that took part."""
    visits = torch.zeros(tasks, dtype=torch.int32)
    return visits, library.visit(threads, tasks, chunks, work, visits.data_ptr())


@settings(deadline=None, max_examples=100)
@given(threads=st.integers(-1, 5), tasks=st.integers(0, 2000), chunks=st.integers(1, 3000))
def test_every_task_is_done_once(library: ctypes.CDLL, team: str, threads: int, tasks: int, chunks: int) -> None:
    visits, count = visit(library, threads, tasks, chunks)
    assert (visits == 1).all()
    assert (tasks > 0) <= count <= max(threads, 1)
    assert count <= 1 or team == "openmp"


def test_the_team_takes_part(library: ctypes.CDLL, team: str) -> None:
    """On a busy machine one thread may do everything now and then, but not always."""
    counts = [visit(library, 3, 300, 300, work=20_000)[1] for _ in range(20)]
    assert max(counts) > 1 if team == "openmp" else counts == [1] * 20


@pytest.mark.parametrize("threads", [1, 3])
def test_calls_inside_calls(library: ctypes.CDLL, team: str, threads: int) -> None:
    visits = torch.zeros(12, 17, dtype=torch.int32)
    library.visit_nested(threads, 12, 17, visits.data_ptr())
    assert (visits == 1).all()


def test_many_python_threads_at_once(library: ctypes.CDLL, team: str) -> None:
    """ctypes lets go of the lock of the interpreter."""
    wrong: list[str] = []
    start = threading.Barrier(8)

    def call(number: int) -> None:
        start.wait()
        for turn in range(10):
            visits, count = visit(library, 1 + (number + turn) % 5, 200 + number, 7, work=50)
            if count < 1 or not (visits == 1).all():
                wrong.append(f"caller {number}, turn {turn}")

    callers = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


PRELUDE = """
import ctypes, os, sys, threading, time
import torch
torch.set_num_threads(3)
library, process = ctypes.CDLL(sys.argv[1]), ctypes.CDLL(None)
library.convswap_join_openmp.argtypes = [ctypes.c_void_p] * 2
functions = process.GOMP_parallel, process.omp_get_max_threads
library.convswap_join_openmp(*(ctypes.cast(function, ctypes.c_void_p) for function in functions))
def visit(threads, tasks, chunks, work=0):
    visits, many, number = (ctypes.c_int32 * tasks)(), ctypes.c_int64, ctypes.c_int
    count = library.visit(number(threads), many(tasks), many(chunks), number(work), visits)
    assert list(visits) == [1] * tasks and count > 0
    return count
"""


def run_program(path: Path, program: str, timeout: float = 300) -> str:
    """Run Python with threads of OpenMP; what it printed. It must end by itself, with 0."""
    if not OPENMP:
        pytest.skip("this torch has no OpenMP")
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(program), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_children_after_fork_compute_alone(path: Path) -> None:
    """GNU's runtime would wait for ever for a team that the child does not have. Also grandchildren."""
    printed = run_program(
        path,
        """
        def child_is_well(depth):
            child = os.fork()
            if child == 0:
                well = all(visit(3, 500, 5, 20_000) == 1 for _ in range(5))
                os._exit(0 if well and (depth == 0 or child_is_well(depth - 1)) else 1)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

        torch.ones(1_000_000).exp()  # torch's own loops have a team, too
        assert max(visit(3, 500, 500, 20_000) for _ in range(20)) > 1
        assert child_is_well(1)
        assert max(visit(3, 500, 500, 20_000) for _ in range(20)) > 1  # the parent keeps its team
        print("well")
        """,
    )
    assert printed == "well"


def test_a_process_ends_while_calls_run(path: Path) -> None:
    """Daemon threads are in calls when the interpreter ends."""
    program = """
        def for_ever():
            while True:
                visit(3, 1000, 10, 1000)
        for _ in range(3): threading.Thread(target=for_ever, daemon=True).start()
        time.sleep(0.2)
        print("end")
        """
    assert run_program(path, program) == "end"
