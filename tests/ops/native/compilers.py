"""Whether this machine can compile."""

from __future__ import annotations

import os
import shutil

import pytest

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")) and "CXX" not in os.environ,
    reason="no C++ compiler",
)
