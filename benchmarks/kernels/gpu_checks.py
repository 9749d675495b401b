"""One command for all that docs/gpu-status.md lists as not yet run on a GPU (except trainings on two GPUs).

Each part runs on its own, so that one that fails or hangs leaves the others' results:

- `kernels`: the Triton kernels against the references on the GPU: drawn geometries, integers bit for bit, sums twice.
  Also packed modules and the dendritic unit, eager and compiled, against the same modules on the CPU;
- `binary`: benchmarks/kernels/binary_conv_gpu.py;
- `dendritic`: the Triton kernels beside the chunked form and the grouped convolution: time and peak memory of a step;
- `fused`: latency on the GPU before and after `fuse`;
- `tests`: the test suite where a GPU is visible;
- `resume`: a training killed by SIGKILL and continued, beside the same one left alone;
- `throughput`: benchmarks/tools/train_throughput.py on the GPU; `overhead`: benchmarks/units/overhead.py.

    python -m benchmarks.kernels.gpu_checks [--parts kernels,binary,...] [--device cuda] [--minutes 9]
        [--out results.json]

Parts start in that order until `--minutes` are over. The rest are named as not run. Results are written after every
part (benchmarks/results/gpu_checks.json, or `--out`). `--device cpu` is a dry run of everything that needs no GPU:
kernels interpreted on a few tiny shapes, no times, and nothing written without `--out`. Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import ROOT, machine, write_result


class Settings:
    """The device and the time limit."""

    def __init__(self, device: str, minutes: float) -> None:
        self.device, self.dry = device, device == "cpu"
        self.end = time.monotonic() + 60 * minutes

    def left(self) -> float:
        """Seconds, at least 1."""
        return max(1.0, self.end - time.monotonic())


def command(settings: Settings, *words: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run Python with these words. Returns the end of its output, its status and seconds."""
    start = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env={**os.environ, **(environment or {})}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=settings.left(),
        )  # fmt: skip
        status, text = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        printed = late.stdout or b""
        status, text = 124, printed.decode(errors="replace") if isinstance(printed, bytes) else printed
    return {"ok": status == 0, "status": status, "seconds": time.monotonic() - start, "printed": text[-4000:]}


def kernels(settings: Settings) -> dict[str, Any]:
    from benchmarks.kernels.gpu_kernels import check_binary, check_dendritic, check_operators

    count = 2 if settings.dry else 300
    checks = {"binary": check_binary, "dendritic": check_dendritic, "operators": check_operators}
    found = {name: check(settings.device, count) for name, check in checks.items()}
    return {"ok": not any(part["wrong"] for part in found.values()), **found}


def binary(settings: Settings) -> dict[str, Any]:
    return command(settings, "-m", "benchmarks.kernels.binary_conv_gpu", "--device", settings.device)


def dendritic(settings: Settings) -> dict[str, Any]:
    from benchmarks.kernels.gpu_kernels import time_dendritic

    return {"ok": True, "skipped": "no times on a CPU"} if settings.dry else time_dendritic(settings.device)


def fused(settings: Settings) -> dict[str, Any]:
    from benchmarks.kernels.gpu_kernels import time_fused

    return time_fused(settings.device, quick=settings.dry)


def tests(settings: Settings) -> dict[str, Any]:
    words = ["--collect-only", "tests/ops"] if settings.dry else ["tests"]
    return command(settings, "-m", "pytest", "-q", "-n", "0" if settings.dry else "12", *words)


def resume(settings: Settings) -> dict[str, Any]:
    """The accuracies and losses of a killed run beside those of an undisturbed one."""
    epochs = 2 if settings.dry else 6
    words = ["train", "--model", "cifar_resnet8", "--data", "digits", "--quiet"]
    words += ["--device", settings.device, "--epochs", str(epochs)]
    with tempfile.TemporaryDirectory() as folder:
        whole = command(settings, "-m", "convswap", *words, "--out", f"{folder}/whole")
        cut = Path(folder, "cut")
        broken = subprocess.Popen(
            [sys.executable, "-m", "convswap", *words, "--out", str(cut)],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        stop = time.monotonic() + min(120, settings.left())
        while broken.poll() is None and time.monotonic() < stop and not _lines(cut):
            time.sleep(0.05)
        epoch = _lines(cut)
        broken.kill()
        broken.wait()
        again = command(settings, "-m", "convswap", *words, "--out", str(cut))
        metrics = [_metrics(Path(folder, name)) for name in ("whole", "cut")]
    same = metrics[0] == metrics[1]
    ok = whole["ok"] and again["ok"] and len(metrics[1]) == len(metrics[0]) == epochs
    return {"ok": ok, "killed_after_epochs": len(epoch), "bit_identical": same, "whole": metrics[0], "cut": metrics[1],
            "printed": "" if ok else whole["printed"] + again["printed"]}  # fmt: skip


def _lines(folder: Path) -> list[str]:
    found = list(folder.rglob("metrics.jsonl"))
    return found[0].read_text().splitlines() if found else []


def _metrics(folder: Path) -> list[dict[str, Any]]:
    """The report of every epoch, without times."""
    rows = [json.loads(line) for line in _lines(folder)]
    return [{k: v for k, v in row.items() if "second" not in k and "time" not in k} for row in rows]


def throughput(settings: Settings) -> dict[str, Any]:
    if settings.dry:
        return {"ok": True, "skipped": "would overwrite the CPU's result"}
    return command(settings, "-m", "benchmarks.tools.train_throughput", "--device", settings.device)


def overhead(settings: Settings) -> dict[str, Any]:
    words = ["-m", "benchmarks.units.overhead", "--device", settings.device, "--tables", "layers,blocks"]
    words += ["--quick", "--units", "circle"] if settings.dry else ["--seconds", "0.2"]
    return command(settings, *words)


PARTS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    part.__name__: part
    for part in (kernels, binary, dendritic, fused, tests, resume, throughput, overhead)
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    asked = arguments.parts.split(",")
    if unknown := set(asked) - set(PARTS):
        parser.error(f"no parts {sorted(unknown)}; there are {', '.join(PARTS)}")
    if arguments.device != "cpu" and not torch.cuda.is_available():
        parser.error("no GPU is visible; --device cpu makes a dry run")
    settings = Settings(arguments.device, arguments.minutes)
    if settings.dry:
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, by the first kernel
    torch.backends.cudnn.allow_tf32 = False  # references must be as exact as the kernels they judge
    found: dict[str, Any] = {}
    for name in asked:
        if settings.left() <= 1:
            found[name] = {"ok": False, "not_run": "no time left"}
            continue
        start = time.monotonic()
        try:
            found[name] = PARTS[name](settings)
        except Exception as error:  # one part must not lose the others' results
            found[name] = {"ok": False, "error": f"{type(error).__name__}: {error}"[:2000]}
        found[name]["seconds"] = time.monotonic() - start
        text = found[name].get("error") or found[name].get("skipped") or found[name].get("printed", "")[-300:]
        print(f"{name:12} {'ok' if found[name]['ok'] else 'FAILED'} {found[name]['seconds']:.0f} s  {text}", flush=True)
        payload = {"device": arguments.device, "parts": found}
        if arguments.out is not None:
            arguments.out.write_text(json.dumps({"machine": machine(), **payload}, indent=2))
        elif not settings.dry:
            write_result("kernels/gpu_checks", payload)
    sys.exit(not all(part["ok"] for part in found.values()))


if __name__ == "__main__":
    main()
