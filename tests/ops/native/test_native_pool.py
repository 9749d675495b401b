"""The thread pool: every task once, from many callers, in children, and to the very end of a process."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch
from compilers import needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st

from convswap.ops.native import build

HERE = Path(__file__).parent


def visit(library: ctypes.CDLL, threads: int, tasks: int, chunks: int, work: int = 0) -> tuple[torch.Tensor, int]:
    """How often every task was done, and the number of threads that took part (at most; by the largest number)."""
    visits, most = torch.zeros(tasks, dtype=torch.int32), ctypes.c_int32(-1)
    assert library.convswap_pool_visit(threads, tasks, chunks, work, visits.data_ptr(), ctypes.addressof(most)) == 0
    return visits, most.value


@settings(deadline=None, max_examples=200)
@given(threads=st.integers(-1, 9), tasks=st.integers(0, 2000), chunks=st.integers(1, 3000))
def test_every_task_is_done_once(library: ctypes.CDLL, team: str, threads: int, tasks: int, chunks: int) -> None:
    visits, most = visit(library, threads, tasks, chunks)
    assert (visits == 1).all()
    assert most <= max(threads, 1)
    assert (most > 0) == (tasks > 0)


def test_workers_take_part(library: ctypes.CDLL, team: str) -> None:
    """On a busy machine the caller may do everything alone now and then, but not always."""
    before = library.convswap_pool_workers()
    assert max(visit(library, 3, 300, 300, work=20_000)[1] for _ in range(20)) > 1
    assert library.convswap_pool_workers() >= 2 if team == "own" else library.convswap_pool_workers() == before


def test_one_thread_needs_no_worker(folder: Path) -> None:
    printed = run_program(
        folder,
        """
        assert visit(1, 1000, 1000) == [1] * 1000
        assert visit(8, 1, 8) == [1]
        assert library.convswap_pool_workers() == 0
        assert visit(3, 1000, 3) == [1] * 1000
        print(library.convswap_pool_workers())
        """,
    )
    assert printed == "2"


@pytest.mark.parametrize(
    "arguments",
    [(2, -1, 2, 0, True, True), (2, 5, 0, 0, True, True), (2, 5, 2, -1, True, True), (2, 5, 2, 0, False, True),
     (2, 5, 2, 0, True, False)],
)  # fmt: skip
def test_wrong_arguments_get_a_status(library: ctypes.CDLL, arguments: tuple[int, int, int, int, bool, bool]) -> None:
    *numbers, give_visits, give_most = arguments
    visits, most = (ctypes.c_int32 * 5)(), ctypes.c_int32()
    pointers = (visits if give_visits else None, ctypes.addressof(most) if give_most else None)
    assert library.convswap_pool_visit(*numbers, *pointers) == 1
    assert list(visits) == [0] * 5


def test_many_python_threads_at_once(library: ctypes.CDLL, team: str) -> None:
    """More callers than the pool has slots; ctypes lets go of the lock of the interpreter."""
    wrong: list[str] = []
    start = threading.Barrier(40)

    def call(number: int) -> None:
        start.wait()
        for turn in range(25):
            visits, _ = visit(library, 1 + (number + turn) % 5, 200 + number, 7, work=50)
            if not (visits == 1).all():
                wrong.append(f"caller {number}, turn {turn}")

    callers = [threading.Thread(target=call, args=(number,)) for number in range(40)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


PRELUDE = """
import ctypes, os, sys, threading, time
library = ctypes.CDLL(sys.argv[1])
def visit(threads, tasks, chunks, work=0):
    visits, most = (ctypes.c_int32 * tasks)(), ctypes.c_int32()
    many, number = ctypes.c_int64, ctypes.c_int
    given = number(threads), many(tasks), many(chunks), number(work), visits, ctypes.byref(most)
    assert library.convswap_pool_visit(*given) == 0
    return list(visits)
"""


def run_program(folder: Path, program: str, timeout: float = 120) -> str:
    """Run Python with the library; what it printed. It must end by itself, with 0."""
    text = PRELUDE + textwrap.dedent(program)
    command = [sys.executable, "-c", text, str(folder / build.LIBRARY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_children_after_fork_have_a_pool(folder: Path) -> None:
    """Forks of a process whose pool is idle, and of one whose pool is at work in other threads; also grandchildren."""
    printed = run_program(
        folder,
        """
        def child_is_well(depth):
            child = os.fork()
            if child == 0:
                well = library.convswap_pool_workers() == 0
                well = well and all(visit(3, 500, 5, 20) == [1] * 500 for _ in range(5))
                well = well and library.convswap_pool_workers() == 2
                os._exit(0 if well and (depth == 0 or child_is_well(depth - 1)) else 1)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

        visit(4, 1000, 4)
        assert child_is_well(1)
        stop = False
        def keep_busy():
            while not stop:
                visit(3, 2000, 6, 100)
        callers = [threading.Thread(target=keep_busy) for _ in range(3)]
        for caller in callers: caller.start()
        assert all(child_is_well(0) for _ in range(10))
        stop = True
        for caller in callers: caller.join()
        assert visit(4, 1000, 4) == [1] * 1000
        print("well")
        """,
    )
    assert printed == "well"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_children_after_fork_leave_the_threads_of_openmp(folder: Path) -> None:
    """GNU's runtime would wait for ever for a team that the child does not have."""
    printed = run_program(
        folder,
        """
        import torch
        torch.set_num_threads(3)
        process = ctypes.CDLL(None)
        if not hasattr(process, "GOMP_parallel"): print("none"), sys.exit()
        library.convswap_join_openmp.argtypes = [ctypes.c_void_p] * 2
        functions = process.GOMP_parallel, process.omp_get_max_threads
        library.convswap_join_openmp(*(ctypes.cast(function, ctypes.c_void_p) for function in functions))
        torch.ones(1_000_000).exp()
        assert visit(3, 1000, 4) == [1] * 1000 and library.convswap_pool_workers() == 0
        child = os.fork()
        if child == 0:
            os._exit(0 if visit(3, 1000, 4) == [1] * 1000 and library.convswap_pool_workers() == 2 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert visit(3, 1000, 4) == [1] * 1000 and library.convswap_pool_workers() == 0
        print("well")
        """,
    )
    assert printed in ("well", "none")


def test_a_process_ends_while_calls_run(folder: Path) -> None:
    """Daemon threads are in calls, and workers asleep or spinning, when the interpreter ends."""
    program = """
        def for_ever():
            while True:
                visit(3, 1000, 10, 1000)
        for _ in range(3): threading.Thread(target=for_ever, daemon=True).start()
        time.sleep(0.2)
        print("end")
        """
    assert run_program(folder, program, timeout=60) == "end"


def test_signals_stay_with_the_program(folder: Path) -> None:
    """Workers block all signals, so that Python's handlers run in Python's threads."""
    program = """
        visit(4, 1000, 4, 1000)
        own = threading.get_native_id()
        for thread in os.listdir("/proc/self/task"):
            if int(thread) != own:
                lines = open(f"/proc/self/task/{thread}/status").read().splitlines()
                mask = int(next(line.split()[1] for line in lines if line.startswith("SigBlk")), 16)
                assert mask & (1 << 1) and mask & (1 << 14), hex(mask)  # SIGINT, SIGTERM
        print("blocked")
        """
    if not Path("/proc/self/task").is_dir():
        pytest.skip("no /proc")
    assert run_program(folder, program) == "blocked"


@needs_compiler
def test_the_stress_program(tmp_path: Path) -> None:
    """Calls in calls, more callers than slots, forks; benchmarks/kernels/sanitize.sh runs it under sanitizers."""
    program = tmp_path / "pool_stress"
    sources = [HERE / "pool_stress.cpp", build.OPS / "native" / "csrc" / "threads.cpp"]
    options = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run([*build.find_compiler(), *options, *map(str, sources), "-o", str(program)], check=True)
    for spin in ("0", "50"):
        environment = {**os.environ, "CONVSWAP_SPIN_US": spin}
        done = subprocess.run([program, "1000"], capture_output=True, text=True, timeout=120, env=environment)
        assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stderr
