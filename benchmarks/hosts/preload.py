"""Load every foreign package once: the process of each host is a fork of the one that did."""

from __future__ import annotations

from benchmarks.hosts.table import HOSTS

for imports in dict.fromkeys(host.imports for host in HOSTS):
    try:
        exec(imports, {"nn": __import__("torch").nn})
    except Exception as error:  # its hosts will say so, each in its own record
        print(f"cannot run {imports!r}: {error}", flush=True)
