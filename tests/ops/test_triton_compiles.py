"""Every Triton kernel compiles to machine code of an H100 or H200, from the very launches the operators make."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from convswap.ops.binary_conv import pack_weight, triton_kernel
from convswap.ops.dendritic import triton_kernels


def toolchain_reason() -> str | None:
    """Why nothing can be compiled here, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    from triton.backends import backends

    return None if "nvidia" in backends else "this triton cannot compile for NVIDIA's GPUs"


pytestmark = pytest.mark.skipif(toolchain_reason() is not None, reason=str(toolchain_reason()))

Compile = Callable[[Callable[[], Any]], list[Any]]


@pytest.fixture
def compile_for_hopper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compile:
    """Runs a function whose launches only compile; returns the kernels."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from offline_gpu import compiled_launches

    def run(function: Callable[[], Any]) -> list[Any]:
        with compiled_launches(90) as found:
            function()
        assert found
        for kernel in found:
            assert kernel.asm["cubin"]
            assert ".target sm_90" in kernel.asm["ptx"]
            assert kernel.metadata.shared <= 227 * 1024  # of a multiprocessor, for one program
        return found

    return run


def named(form: triton_kernel.Form) -> str:
    return f"{form.name}-{form.pixels}x{form.outputs}x{form.step}"


@pytest.mark.parametrize(
    ("form", "sign"),
    [(form, False) for form in triton_kernel.FORMS] + [(triton_kernel.FORMS[k], True) for k in (0, -1)],
    ids=lambda value: named(value) if isinstance(value, triton_kernel.Form) else ("sign" if value else "float"),
)
def test_binary_convolution(form: triton_kernel.Form, sign: bool, compile_for_hopper: Compile) -> None:
    x, weight = torch.randn(2, 128, 14, 14), pack_weight(torch.randn(128, 128, 3, 3))
    words = torch.zeros(2, 14, 14, 2, dtype=torch.int64)
    geometry = x.shape[1], 128, (1, 1), (1, 1, 1, 1), (1, 1), 1
    scale, bias = torch.rand(128), torch.rand(128)
    limit, flip = torch.zeros(128, dtype=torch.int32), torch.zeros(128, dtype=torch.bool)
    (kernel,) = compile_for_hopper(
        lambda: (
            triton_kernel.conv2d_sign(words, weight, limit, flip, *geometry, form)
            if sign
            else triton_kernel.conv2d(words, weight, scale, bias, None, *geometry, True, form)
        )
    )
    ptx = kernel.asm["ptx"]
    if form.name == "popcount":
        assert "popc.b64" in ptx or "popc.b32" in ptx  # the sums of neighbouring bits became the instruction
    else:
        assert "wgmma.mma_async" in ptx or "mma.sync" in ptx
        assert ".s32.s8.s8" in ptx  # int8 tensor cores


@pytest.mark.parametrize("folded", [False, True])
def test_packing(folded: bool, compile_for_hopper: Compile) -> None:
    limit, flip = (torch.zeros(70), torch.zeros(70, dtype=torch.bool)) if folded else (None, None)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x = torch.zeros(2, 70, 9, 9, dtype=dtype)
        compile_for_hopper(lambda x=x: triton_kernel.pack(x, limit, flip, 1))


@pytest.mark.parametrize(
    ("dtype", "tapwise", "stride"),
    [
        (torch.float32, False, 2),
        (torch.float32, True, 1),
        (torch.bfloat16, False, 1),
        (torch.float16, True, 1),
        (torch.float64, False, 1),
    ],
    ids=str,
)
def test_dendritic_convolution(dtype: torch.dtype, tapwise: bool, stride: int, compile_for_hopper: Compile) -> None:
    """Also as under autocast: input and biases in float32 beside a narrow weight."""
    kept = torch.promote_types(dtype, torch.float32)
    x, weight = torch.zeros(2, 32, 10, 10, dtype=kept), torch.zeros(32, 32, 3, 3, dtype=dtype)
    bias = torch.zeros(weight.shape if tapwise else weight.shape[:2], dtype=kept)
    geometry = (stride, stride), (1, 1, 1, 1), (1, 1), 1

    def both() -> None:
        y = triton_kernels.dendritic_forward_cuda(x, weight, bias, weight[:, 0, 0, 0], *geometry)
        triton_kernels.dendritic_backward_cuda(y, x, weight, bias, *geometry, (True, True, True))

    kernels = compile_for_hopper(both)
    names = [kernel.metadata.name for kernel in kernels]
    assert names.count("forward_program") == 1
    assert names.count("input_gradient_program") == names.count("weight_gradient_program") == stride**2  # its phases
    assert not any(re.search(r"^\s*(@%p\d+ )?(atom|red)\.", kernel.asm["ptx"], re.M) for kernel in kernels)  # one order


def test_sizes_of_one(compile_for_hopper: Compile) -> None:
    """Triton turns arguments of 1 into constants, which not all code can take; the interpreter does not."""
    x, weight, scale = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.ones(1)
    geometry = (1, 1), (0, 0, 0, 0), (1, 1), 1
    words, packed = torch.zeros(1, 1, 1, 1, dtype=torch.int64), pack_weight(weight)

    def all_kernels() -> None:
        for form in (triton_kernel.FORMS[1], triton_kernel.FORMS[-1]):
            triton_kernel.conv2d(words, packed, scale, None, None, 1, 1, *geometry, False, form)
        triton_kernel.pack(x, None, None, 1)
        y = triton_kernels.dendritic_forward_cuda(x, weight, weight, None, *geometry)
        triton_kernels.dendritic_backward_cuda(y, x, weight, weight, *geometry, (True, True, True))

    assert len(compile_for_hopper(all_kernels)) == 6
