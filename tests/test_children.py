"""Processes that tests start run the package under test, not another one that happens to be installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import convswap


def test_a_child_imports_what_its_parent_tests(
    tmp_path: Path, child_environment: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers, given = tmp_path / "helpers", tmp_path / "given"
    for folder in (helpers, given):
        folder.mkdir()
        (folder / f"of_{folder.name}.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(given))
    code = "import convswap, of_helpers, of_given, os; print(convswap.__file__, os.environ['WORD'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=child_environment(helpers, WORD="kept"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [convswap.__file__, "kept"]
    assert os.environ["PYTHONPATH"] == str(given)
