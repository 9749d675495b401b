"""Do the recipes of `docs/hosts` run? Each page in a process of its own, with the packages that are installed here.

    python -m benchmarks.hosts.recipes [PAGE ...]

CI runs the pages whose packages it has. This script is for an environment with all of them. It writes
`benchmarks/results/hosts/recipes.json`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, write_result

PAGES = {
    "lightning": ["lightning"],
    "monai": ["monai", "dynamic-network-architectures"],
    "segmentation_models_pytorch": ["segmentation-models-pytorch"],
    "timm": ["timm"],
    "torchvision_detection": ["torchvision"],
    "transformers": ["transformers"],
    "ultralytics": ["ultralytics"],
}


def program(page: str) -> str:
    """The python blocks of a page, one after the other."""
    text = (ROOT / "docs" / "hosts" / f"{page}.md").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))


def run(page: str) -> dict[str, Any]:
    """Run a page in an empty folder."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "recipe.py")
        source.write_text(program(page), encoding="utf-8")
        path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": path, "YOLO_OFFLINE": "True", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, source], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    row: dict[str, Any] = {"page": page, "versions": {name: installed(name) for name in PAGES[page]}}
    row |= {"ok": done.returncode == 0, "seconds": round(time.perf_counter() - start, 1)}
    if done.returncode:
        row["error"] = done.stderr.strip().splitlines()[-1].replace(folder, "")[:300]
    return row


def installed(name: str) -> str:
    """The version of a package, or that it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def main() -> None:
    """Run the named pages, or all of them and write the record."""
    rows = []
    for page in sys.argv[1:] or PAGES:
        rows.append(run(page))
        print(rows[-1], flush=True)
    if not sys.argv[1:]:
        write_result("hosts/recipes", {"rows": rows})


if __name__ == "__main__":
    main()
