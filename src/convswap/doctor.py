"""What this machine and this installation can do, what is missing, and the cost of each missing part."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ._version import __version__
from .errors import ConvswapError, UsageError
from .machine import usable_cores
from .ops import gpu, native
from .ops.binary_conv import native_calls as binary_conv
from .ops.dendritic import native as dendritic
from .ops.native.build import find_compiler
from .packages import OPTIONAL
from .units import get_unit, list_units

Section = list[tuple[str, str]]


def diagnose() -> dict[str, Section]:
    """Examine everything. Returns sections of (what, finding) in reading order."""
    return {
        "versions": _versions(),
        "processor": _processor(),
        "native kernels": _native(),
        "accelerator": _accelerator(),
        "optional packages": _packages(),
        "units": _units(),
        "data": _data(),
    }


def format_plain(findings: dict[str, Section]) -> str:
    """The findings as aligned text, made with the standard library alone."""
    width = max(len(what) for section in findings.values() for what, _ in section)
    lines: list[str] = []
    for title, section in findings.items():
        lines += [title, *(f"  {what:<{width}}  {finding}" for what, finding in section), ""]
    return "\n".join(lines).rstrip()


def _versions() -> Section:
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    python = f"{platform.python_version()} ({platform.python_implementation()})"
    return [("convswap", __version__), ("torch", torch.__version__), ("python", python), ("system", system)]


def _processor() -> Section:
    abilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    cores = f"{usable_cores()} usable of {os.cpu_count()}; torch uses {torch.get_num_threads()} threads"
    flags = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "neon", "sve", "bf16")
    present = [name for name in flags if abilities.get(name)]
    fast_bf16 = any(abilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return [
        ("name", str(abilities.get("cpu_name") or platform.processor() or platform.machine())),
        ("cores", cores),
        (
            "vector instructions",
            f"torch uses {torch.backends.cpu.get_cpu_capability()}; has {', '.join(present) or '?'}",
        ),
        ("bfloat16", "in hardware" if fast_bf16 else "no instructions found: training on this processor uses float32"),
        ("oneDNN", "yes" if torch.backends.mkldnn.is_available() else "no: convolutions run slower"),
        (
            "C++ compiler",
            _compiler() or "none found: no torch.compile on the processor, and no building of native kernels",
        ),
    ]


def _compiler() -> str | None:
    try:
        command = find_compiler()
    except ConvswapError:
        return None
    return " ".join([shutil.which(command[0]) or command[0], *command[1:]])


def _native() -> Section:
    """The library of `ops/native`, the path that each operator takes here, and what is lost without the library."""
    missing = native.why_missing()
    if missing is None:
        features = ", ".join(sorted(native.cpu_features())) or "no vector instructions for which it has kernels"
        library = f"{native.library_path()}; this processor has {features}"
    else:
        library = f"none: {missing}"
    return [
        ("library", library),
        ("binary convolution", _binary_path()),
        ("dendritic convolution", _dendritic_path()),
        ("kernels for GPUs", gpu.why_missing() or "Triton is installed; used for tensors on a GPU"),
    ]


def _binary_path() -> str:
    names = binary_conv.path_names()
    if forced := os.environ.get(binary_conv.VARIABLE):
        return f"{binary_conv.VARIABLE}={forced} asks for {forced}; there are {', '.join([*names, 'torch'])}"
    if not names:
        return "torch: packed networks give the same answers and stay small, but are no faster than float32"
    return f"{names[0]}" + (f"; {', '.join(names[1:])} where it does not apply" if len(names) > 1 else "")


def _dendritic_path() -> str:
    try:
        return dendritic.path() or "torch: the same values and gradients, slower, with more memory"
    except UsageError as error:
        return str(error)


def _accelerator() -> Section:
    if torch.cuda.is_available():
        rows: Section = []
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            memory = f"{card.total_memory / 2**30:.0f} GiB"
            rows.append((f"cuda:{index}", f"{card.name}, {memory}, compute {card.major}.{card.minor}"))
        bf16 = "yes" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
        return [*rows, ("CUDA", str(torch.version.cuda or torch.version.hip)), ("bfloat16", bf16)]
    if torch.backends.mps.is_available():
        return [("mps", "Apple GPU found")]
    built = torch.version.cuda or torch.version.hip
    reason = (
        f"none visible (torch is built for {built})" if built else "none; this torch is a build for processors only"
    )
    return [("GPU", f"{reason}: training runs on the processor")]


def _packages() -> Section:
    rows: Section = []
    for package in OPTIONAL:
        try:
            rows.append((package.installed_as, version(package.installed_as)))
        except PackageNotFoundError:
            rows.append((package.installed_as, f"missing: {package.purpose} needs it: {package.how_to_install}"))
    return rows


def _units() -> Section:
    names = list_units()
    foreign = [name for name in names if not get_unit(name).origin.startswith("convswap.")]
    return [("registered", str(len(names))), ("from other packages", ", ".join(foreign) or "none")]


def _data() -> Section:
    given = os.environ.get("CONVSWAP_DATA")
    root = Path(given).expanduser() if given else Path.home() / ".cache" / "convswap" / "data"
    source = "from CONVSWAP_DATA" if given else "CONVSWAP_DATA is not set; --data-root names another"
    rows = [("embedded", "digits"), ("data root", f"{root} ({source})")]
    if not root.is_dir():
        return [*rows, ("holds", "nothing: no such folder; named data sets would be downloaded to it")]
    contents = sorted(entry.name for entry in root.iterdir() if not entry.name.startswith("."))
    more = f" and {len(contents) - 12} more" if len(contents) > 12 else ""
    return [*rows, ("holds", (", ".join(contents[:12]) or "nothing") + more)]
