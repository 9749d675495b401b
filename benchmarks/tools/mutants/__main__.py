"""How many plausible bugs do the tests notice? Wanted: 95 % in every room.

    python -m benchmarks.tools.mutants [--rooms train,lab] [--only NAME] [--jobs 1] [--nice 10] [--record FILE]
        [--fresh]

The bugs are of the kind a person writes: a dropped argument, two values in the wrong order, a missing epsilon, a state
not saved. They are listed under `rooms/`, with the tests that should notice each. The script writes one bug at a time
into a temporary copy of the working tree, never into the tree itself. A bug is noticed when a test fails, or when the
tests take more than a quarter of an hour. In the end the tests that failed run without a bug, and must pass. A mutant
whose old text is not found exactly once is an error. A mutant called equivalent also runs; it is an error if a test
distinguishes it from the original.

`--record` keeps outcomes by the content of edit, file and tests. An interrupted run goes on there, and a run after an
edit repeats only the mutants that the edit concerns. The record does not see a change elsewhere: `--fresh` repeats
everything. A whole run writes `benchmarks/results/tools/mutants.json`.

Why not a ready-made tool? mutmut 3.8 skips decorated functions (our operators and properties) and sends every call
through a wrapper: `torch.compile(fullgraph=True)`, `torch.export` and `inspect` see the wrapper instead of the code
under test. cosmic-ray 8.7 edits the checkout itself and has one test command for all mutants: here the whole suite, 20
minutes on two cores each. Both draw thousands of mutants from the syntax (`<` for `<=`), know only Python, and cannot
express "the other padding axis". Here a mutant costs the seconds of the tests it names.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, write_result

from .catalogue import Mutant, read_mutants
from .copies import Runner, check_copy, copy_tree
from .trial import Record, check_right, judge

GOAL = 0.95


def chosen(mutants: list[Mutant], rooms: str | None, only: str | None) -> list[Mutant]:
    """The mutants of these rooms whose names hold these words; SystemExit if there are none."""
    wanted = rooms.split(",") if rooms else sorted({mutant.room for mutant in mutants})
    if unknown := set(wanted) - {mutant.room for mutant in mutants}:
        raise SystemExit(f"no mutants in the room {sorted(unknown)[0]!r}; there are some in {_rooms(mutants)}")
    found = [mutant for mutant in mutants if mutant.room in wanted and (only or "") in mutant.title]
    if not found:
        raise SystemExit(f"no mutant's name holds {only!r}")
    return found


def _rooms(mutants: list[Mutant]) -> str:
    return ", ".join(sorted({mutant.room for mutant in mutants}))


def in_turns(mutants: list[Mutant]) -> list[Mutant]:
    """One of each room, then the next of each, so that an interrupted run says something about every room."""
    rooms = [[mutant for mutant in mutants if mutant.room == room] for room in sorted({m.room for m in mutants})]
    return [mutant for turn in zip_longest(*rooms) for mutant in turn if mutant is not None]


def try_all(mutants: list[Mutant], record: Record, jobs: int) -> list[dict[str, Any]]:
    """The outcome of each, in order. Mutants with a recorded outcome are not run."""
    free, runners = queue.SimpleQueue[Runner](), list[Runner]()

    def one(mutant: Mutant) -> dict[str, Any]:
        tests = free.get()
        try:
            found = record.put(keys[mutant.title], judge(mutant, tests))
        finally:
            free.put(tests)
        print(f"{found['outcome']:9} {found['seconds']:6.1f} s  {mutant.title}  {found['by'] or ''}", flush=True)
        return found

    with ExitStack() as stack:
        temporary = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="convswap-mutants-", ignore_cleanup_errors=True))
        )
        first = temporary / "0" / "tree"  # everything is read from here, as the tree may be edited meanwhile
        copy_tree(ROOT, first)
        keys = {mutant.title: mutant.key(first) for mutant in mutants}
        todo = in_turns([mutant for mutant in mutants if record.get(keys[mutant.title]) is None])
        folders = [first, *(temporary / str(job) / "tree" for job in range(1, min(jobs, len(todo))))]
        for folder in folders[1:]:
            shutil.copytree(first, folder)
        for folder in folders:
            check_copy(folder)
            runners.append(stack.enter_context(Runner(folder)))
            free.put(runners[-1])
        pool = stack.enter_context(ThreadPoolExecutor(jobs))
        try:
            for future in [pool.submit(one, mutant) for mutant in todo]:
                future.result()
            rows = [row for mutant in mutants if (row := record.get(keys[mutant.title])) is not None]
            check_right([row["by"] for row in rows if row["by"]], runners[0], record)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for runner in runners:
                runner.close()
            raise
    return rows


def score(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts, and the noticed part of the mutants that are not equivalent."""
    outcomes = Counter(row["outcome"] for row in rows if row["equivalent"] is None)
    noticed, all_of_them = outcomes["killed"] + outcomes["timeout"], outcomes.total()
    return {
        "mutants": len(rows),
        **{name: outcomes[name] for name in ("killed", "timeout", "survived")},
        "equivalent": len(rows) - all_of_them,
        "noticed": round(noticed / all_of_them, 4) if all_of_them else None,
    }


def table(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The score of each room, and of all."""
    rooms = sorted({row["room"] for row in rows})
    return {room: score([row for row in rows if row["room"] == room]) for room in rooms} | {"all": score(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", help="a comma between names; all by default")
    parser.add_argument("--only", help="mutants whose room/name holds these words")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--nice", type=int, default=10, help="how far behind other processes, 0 to 19")
    parser.add_argument("--record", type=Path, default=ROOT / ".mutants.jsonl")
    parser.add_argument("--fresh", action="store_true", help="forget what the record holds")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs} is not allowed; it must be at least 1")
    mutants = chosen(read_mutants(), options.rooms, options.only)
    for mutant in mutants:
        mutant.mutated(ROOT)  # a stale mutant is reported before hours are spent
    os.nice(options.nice)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # this also removes the copies
    start = time.perf_counter()
    rows = try_all(mutants, Record(options.record, fresh=options.fresh), options.jobs)
    scores = table(rows)
    for room, counts in scores.items():
        print(f"{room:10}", "  ".join(f"{name} {value}" for name, value in counts.items()))
    liars = [f"{row['room']}/{row['name']}" for row in rows if row["equivalent"] and row["outcome"] != "survived"]
    if liars:
        raise SystemExit(f"called equivalent, but a test distinguishes them from the original: {', '.join(liars)}")
    if options.rooms is None and options.only is None:
        write_result(
            "tools/mutants",
            {
                "goal": GOAL,
                "rooms": scores,
                "missed": [room for room, counts in scores.items() if (counts["noticed"] or 1) < GOAL],
                "seconds": round(time.perf_counter() - start, 1),
                "seconds_of_tests": round(sum(row["seconds"] for row in rows), 1),
                "mutants": [{name: value for name, value in row.items() if name != "key"} for row in rows],
            },
        )


if __name__ == "__main__":
    main()
