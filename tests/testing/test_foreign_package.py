"""A package outside this repository runs the whole contract, both installed from wheels."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from convswap.testing import RULES

ROOT = Path(__file__).resolve().parents[2]
FIXTURE = ROOT / "tests" / "fixtures" / "foreign_unit"

CHECK = """
import json, sys
import convswap
from convswap.testing import check_unit
report = check_unit("blend")
print(json.dumps({
    "convswap": convswap.__file__, "path": sys.path, "modules": [
        file for m in sys.modules.values() if (file := getattr(m, "__file__", None))
    ],
    "results": [[r.rule, r.case, r.outcome, r.message] for r in report.results],
}))
"""


PACKAGES = Path(sysconfig.get_path("purelib"))


def _run(folder: Path, *command: str | Path, installed: Path | None = None) -> str:
    """Run a command; with `installed`, Python sees that folder and the installed packages, but no editable ones."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHONPATH"))}
    environment |= {"CONVSWAP_NATIVE": "0", "OMP_NUM_THREADS": "1"}
    if installed is not None:
        environment["PYTHONPATH"] = os.pathsep.join(map(str, (installed, PACKAGES)))
        command = (command[0], "-S", *command[1:])  # without `site`, no file in PACKAGES leads to a checkout
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both packages, from wheels, and nothing else."""
    work = tmp_path_factory.mktemp("wheels")
    target = work / "installed"
    foreign = shutil.copytree(FIXTURE, work / "foreign_unit")
    pip = (sys.executable, "-m", "pip", "-q")
    for source in (ROOT, foreign):
        _run(work, *pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", work / "dist", source)
    wheels = sorted((work / "dist").glob("*.whl"))
    assert len(wheels) == 2
    _run(work, *pip, "install", "--no-deps", "--no-index", "--target", target, *wheels)
    return target


def test_check_unit_runs_the_whole_contract(installed: Path, tmp_path: Path) -> None:
    found = json.loads(_run(tmp_path, sys.executable, "-c", CHECK, installed=installed).splitlines()[-1])
    assert Path(found["convswap"]).is_relative_to(installed)
    reached = [Path(p) for p in (*found["path"], *found["modules"]) if p]
    assert not [p for p in reached if p.is_relative_to(ROOT) and not p.is_relative_to(PACKAGES)]
    concerned = {rule.name for rule in RULES.values() if "feature" in rule.kinds} - {"compiled_training_still_draws"}
    assert {rule for rule, *_ in found["results"]} == concerned
    assert len({case for _, case, *_ in found["results"]}) == 3
    assert {outcome for *_, outcome, _ in found["results"]} <= {"passed", "not applicable"}
    # What was not checked is what this machine lacks, not something about the unit.
    skipped = {rule for rule, _, outcome, _ in found["results"] if outcome == "not applicable"}
    assert skipped <= {"onnx_computes_the_same", "two_ranks_agree"}


def test_pytest_runs_its_three_lines_without_our_settings(installed: Path, tmp_path: Path) -> None:
    shutil.copytree(FIXTURE / "tests", tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -W error -p no:xdist\n")
    chosen = "constructor or start or in_place or overwritten or state"
    printed = _run(tmp_path, sys.executable, "-m", "pytest", "-q", "-k", chosen, installed=installed)
    assert " passed" in printed
    assert "failed" not in printed
    listed = _run(tmp_path, sys.executable, "-m", "pytest", "-q", "--collect-only", installed=installed)
    assert "test_contract[blend(share=0.5)-fused_shares_no_storage]" in listed


def test_the_command_line_runs_it_too(installed: Path, tmp_path: Path) -> None:
    command = "import sys; from convswap.cli import main; sys.exit(main(sys.argv[1:]))"
    rules = ("--rules", "state*", "--rules", "repr*", "--module", "foreign_unit.blend")
    printed = _run(tmp_path, sys.executable, "-c", command, "check-unit", "blend", *rules, installed=installed)
    assert re.search(r"blend: ([6-9]|\d\d) passed, 0 failed, 0 not applicable", printed), printed
