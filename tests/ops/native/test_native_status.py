"""One table of statuses: the header's and Python's."""

from __future__ import annotations

import re

import pytest

from convswap.errors import ConvswapError
from convswap.ops import native
from convswap.ops.native import Status, build

HEADER = build.OPS / "native" / "csrc" / "api.h"


def test_python_has_the_statuses_of_the_header() -> None:
    (body,) = re.findall(r"enum Status : int \{(.*?)\};", HEADER.read_text(encoding="utf-8"), re.DOTALL)
    found = re.findall(r"k(\w+) = (\d+),", body)
    named = {re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper(): int(number) for name, number in found}
    assert named == {status.name: status.value for status in Status}


def test_no_other_header_has_statuses() -> None:
    others = [file.name for file in build.headers() if file != HEADER and "enum Status" in file.read_text()]
    assert others == []


def test_a_status_becomes_an_exception_that_names_the_kernel() -> None:
    native.check(Status.OK, "kernel")
    with pytest.raises(MemoryError, match="kernel"):
        native.check(Status.NO_MEMORY, "kernel")
    words = {Status.BAD_ARGUMENT: "sizes", Status.UNSUPPORTED: "instructions", Status.INTERNAL: "a bug", 9: "status 9"}
    assert {*words, Status.OK, Status.NO_MEMORY} == {*Status, 9}
    for status, expected in words.items():
        with pytest.raises(ConvswapError, match=f"kernel failed: .*{expected}"):
            native.check(status, "kernel")
