"""The facts that every benchmark writes beside its numbers: machine, versions, commit and command line."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from convswap.machine import usable_cores

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, accelerators, versions and threads."""
    return {
        "cpu": cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "cores": usable_cores(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def git_commit() -> str | None:
    """The commit of this checkout, marked if tracked files have changed since; None outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True)
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", ":/src"],
            cwd=HERE,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + (" with changes in src" if changes.stdout.strip() else "")


def without_folder(argument: str) -> str:
    """An absolute path without the folders of this machine; anything else as it is."""
    return Path(argument).name if Path(argument).is_absolute() else argument


def module_name() -> str:
    """The name given to `python -m`, e.g. `benchmarks.units.overhead`; the file name of any other program."""
    script = Path(sys.argv[0]).resolve()
    if not script.is_relative_to(HERE):
        return script.name
    return ".".join(script.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")


def write_result(name: str, payload: dict[str, Any]) -> Path:
    """Write `benchmarks/results/FOLDER/NAME.json`, the whole file or none of it. Returns its path and prints it."""
    result = {
        "benchmark": name,
        "command": " ".join(["python", "-m", module_name(), *map(without_folder, sys.argv[1:])]),
        "commit": git_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        **payload,
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2, allow_nan=False)
            file.write("\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    print(f"wrote {path.relative_to(ROOT)}")
    return path
