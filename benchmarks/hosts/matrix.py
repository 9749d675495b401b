"""The matrix of foreign networks: each in a process of its own, with a time limit, and gone on with where it stopped.

    python -m benchmarks.hosts.matrix [--again STATE ...] [--limit SECONDS] [--write] [NAME ...]

`--again refused` examines once more the hosts with a cell in that state. The records of single hosts lie in
`build/hosts`. When there is one for every host, the script writes `benchmarks/results/hosts/matrix.json` and
`docs/hosts/matrix.md`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import ROOT, write_result
from benchmarks.hosts.page import COLUMNS, write_page
from benchmarks.hosts.table import HOSTS, Host, find_host

RECORDS = ROOT / "build" / "hosts"


def examine(host: Host, limit: float, server: Any) -> dict[str, Any]:
    """The record of one host, from a process of its own with one thread."""
    path = RECORDS / f"{host.slug}.part"
    path.unlink(missing_ok=True)
    child = server.Process(target=write_record, args=(host, path))
    child.start()
    child.join(limit)
    problem = f"over {limit:.0f} s" if child.is_alive() else f"exit code {child.exitcode}"
    child.kill()
    child.join()
    empty = {"name": host.name, "package": host.package}
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else empty
    path.unlink(missing_ok=True)
    if "broken" not in record:
        for column in COLUMNS:
            record.setdefault(column, {"state": "failed", "reason": problem})
    return record


def write_record(host: Host, path: Path) -> None:
    """Examine a host and write what is known after each column. Runs in the child."""
    from benchmarks.hosts.examine import examine  # already loaded in the process that this one is a fork of

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for record in examine(host):
        path.with_suffix(".new").write_text(json.dumps(record, default=str), encoding="utf-8")
        os.replace(path.with_suffix(".new"), path)


def states(record: dict[str, Any]) -> set[str]:
    """The states of a record's cells."""
    return {"broken"} if "broken" in record else {record[column]["state"] for column in COLUMNS}


def record_of(host: Host) -> dict[str, Any] | None:
    """The record that an earlier run left."""
    path = RECORDS / f"{host.slug}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def versions() -> dict[str, str]:
    """The versions of the packages whose networks are examined."""
    found = {}
    for package in sorted({host.package for host in HOSTS}):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def main() -> None:
    """Examine what is missing, and write the results once nothing is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these hosts, also those already examined")
    parser.add_argument("--again", nargs="+", default=[], metavar="STATE", help="examine hosts with such a cell again")
    parser.add_argument("--limit", type=float, default=300, help="seconds for each host (%(default)s)")
    parser.add_argument("--write", action="store_true", help="write the results though hosts are missing")
    parser.add_argument("--only-write", action="store_true", help="examine nothing, write what there is")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="only the I-th of N shares, to run N at a time")
    given = parser.parse_args()
    RECORDS.mkdir(parents=True, exist_ok=True)
    os.environ |= {"OMP_NUM_THREADS": "1", "YOLO_OFFLINE": "True", "HF_HUB_OFFLINE": "1"}
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["benchmarks.hosts.examine", "benchmarks.hosts.preload"])
    share, shares = map(int, given.part.split("/"))
    hosts = ([find_host(name) for name in given.names] or HOSTS)[share - 1 :: shares]
    for number, host in enumerate(hosts, 1):
        old = record_of(host)
        if not given.only_write and (given.names or old is None or states(old) & set(given.again)):
            record = examine(host, given.limit, server)
            (RECORDS / f"{host.slug}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            said = record.get("broken") or " ".join(f"{c}:{record[c]['state']}" for c in COLUMNS)
            print(
                f"{number}/{len(hosts)} {host.package} {host.name}: {said} ({record.get('seconds', '-')} s)", flush=True
            )
    records = {host: record_of(host) for host in HOSTS}
    missing = [host.name for host, record in records.items() if record is None]
    if not missing or given.write or given.only_write:
        rows = [record for record in records.values() if record is not None]
        path = write_result("hosts/matrix", {"versions": versions(), "rows": rows, "missing": missing})
        write_page(json.loads(path.read_text(encoding="utf-8")))
    else:
        print(f"{len(missing)} of {len(HOSTS)} hosts are not examined yet: {', '.join(missing)}")


if __name__ == "__main__":
    main()
