"""Every native path, called at the C border, against the reference: 420 drawn geometries each, all epilogues.

What test_operator.py does not reach: weights expanded once, several threads, memory beside the outputs, AMX on a
machine without AMX (its tile instructions replaced by plain C with the same semantics), and NEON where it is not ARM.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from c_border import Border, output_size
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapes import Call, calls

from convswap.ops import native
from convswap.ops.binary_conv import binary_conv2d_reference, pack_activations, pack_weight
from convswap.ops.binary_conv.thresholds import ALWAYS, NEVER
from convswap.ops.native import build

HERE = Path(__file__).parent
X86_PATHS = ["amx", "amx emulated", "vpopcntdq", "vnni", "avx2"]
PATHS = [*(X86_PATHS if platform.machine() in ("x86_64", "AMD64") else ["neon"]), "portable"]
#: drawn for each path; more of them by hand with CONVSWAP_DRAWN_SHAPES=2000
SHAPES = int(os.environ.get("CONVSWAP_DRAWN_SHAPES", "420"))
DRAWN = settings(max_examples=SHAPES, deadline=None, suppress_health_check=list(HealthCheck))


def built(folder: Path, *flags: str) -> Border:
    try:
        return Border(ctypes.CDLL(str(build.build(folder, only=["binary_conv"], flags=flags, jobs=2).path)))
    except build.BuildError as error:
        pytest.skip(f"no native library: {error}")


@pytest.fixture(scope="module")
def border(tmp_path_factory: pytest.TempPathFactory) -> Border:
    """The installed library, or one built for the tests."""
    library = native.library()
    return built(tmp_path_factory.mktemp("native")) if library is None else Border(library)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Border:
    """A library whose tile instructions are plain C."""
    return built(tmp_path_factory.mktemp("tiles"), "-DCONVSWAP_EMULATE_TILES")


@pytest.fixture(params=PATHS)
def kernel(request: pytest.FixtureRequest) -> tuple[Border, str]:
    """A library and the name of a path that this machine runs."""
    name, _, emulate = request.param.partition(" ")
    library: Border = request.getfixturevalue("emulated" if emulate else "border")
    if not library.available(name):
        pytest.skip(f"this processor cannot run {name}")
    return library, name


def check(library: Border, path: str, call: Call, threads: int, once: bool) -> None:
    """The integers, the floats of a full epilogue and the bits of the sign epilogue, all exactly."""
    words, outputs = pack_activations(call.x, groups=call.where[3]), call.weight.shape[0]
    panels = library.panels(path, call, threads) if once else None
    dots = binary_conv2d_reference(call.x, call.weight, None, None, None, *call.where)
    assert torch.equal(library.conv(path, call, words, panels=panels, threads=threads), dots)
    scale, bias, map_ = torch.randn(outputs), torch.randn(outputs), torch.rand(len(call.x), *output_size(call))
    expected = binary_conv2d_reference(call.x, call.weight, scale, bias, map_, *call.where, relu=True)
    assert torch.equal(library.conv(path, call, words, scale, bias, map_, True, panels, threads), expected)
    if call.where[3] == 1 or outputs // call.where[3] % 8 == 0:
        threshold, flip = torch.randint(-9, 10, (outputs,), dtype=torch.int32), torch.rand(outputs) < 0.5
        bits = library.conv_sign(path, call, words, threshold, flip, panels, threads)
        assert torch.equal(bits, pack_activations(dots, threshold.float(), flip))


@given(call=calls(), threads=st.integers(1, 3), once=st.booleans())
@DRAWN
def test_a_path_equals_the_reference(kernel: tuple[Border, str], call: Call, threads: int, once: bool) -> None:
    check(*kernel, call, threads, once)


def layer(channels: int, size: int, batch: int, outputs: int | None = None, kernel: int = 3, stride: int = 1) -> Call:
    torch.manual_seed(0)
    x = torch.randn(batch, channels, size, size).sign()
    weight = torch.randn(outputs or channels, channels, kernel, kernel).sign()
    pad = kernel // 2
    return Call(x, weight, pack_weight(weight), ((stride, stride), (pad, pad, pad, pad), (1, 1), 1))


LAYERS = {
    "64@56": layer(64, 56, 1, 32),
    "128@28": layer(128, 28, 1, 40),
    "256@14": layer(256, 14, 2, 64),
    "512@7, many images": layer(512, 7, 9, 48),
    "strided": layer(64, 28, 2, 128, stride=2),
    "pointwise": layer(320, 14, 3, 72, kernel=1),
    "pointwise, strided": layer(64, 15, 1, 128, kernel=1, stride=2),
    "7x7": layer(72, 12, 1, 33, kernel=7),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_layers_of_networks(kernel: tuple[Border, str], name: str, threads: int) -> None:
    """Sizes that drawn geometries do not reach: many blocks, chunks of weights, more threads than panels."""
    for once in (False, True):
        check(*kernel, LAYERS[name], threads, once)


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("channels", [63, 64, 4096])
def test_the_largest_sums(kernel: tuple[Border, str], channels: int, kernel_size: int) -> None:
    """Every bit equal, or every bit different: counters of bytes would overflow after 32 words of 64 differences."""
    library, path = kernel
    x, pad = torch.ones(1, channels, 6, 7), kernel_size // 2
    for x_sign, w_sign in ((1, -1), (-1, 1), (1, 1), (-1, -1)):
        weight = torch.full((17, channels, kernel_size, kernel_size), float(w_sign))
        call = Call(x * x_sign, weight, pack_weight(weight), ((1, 1), (pad,) * 4, (1, 1), 1))
        taps = torch.nn.functional.conv2d(
            torch.ones(1, 1, 6, 7), torch.ones(1, 1, kernel_size, kernel_size), padding=pad
        )
        expected = (x_sign * w_sign * channels * taps).expand(1, 17, 6, 7)
        for once in (False, True):
            panels = library.panels(path, call) if once else None
            assert torch.equal(library.conv(path, call, pack_activations(call.x), panels=panels), expected)


@pytest.mark.parametrize("outputs", [24, 17])
def test_the_outermost_thresholds(kernel: tuple[Border, str], outputs: int) -> None:
    """`ALWAYS` and `NEVER` decide whatever the sum is; next to a sum it decides."""
    call = layer(64, 5, 1, outputs)
    words, dots = pack_activations(call.x), binary_conv2d_reference(call.x, call.weight, None, None, None, *call.where)
    where = dots[0, :, 2, 2].int()
    for flip in (torch.zeros(outputs, dtype=torch.bool), torch.ones(outputs, dtype=torch.bool)):
        for threshold in (torch.full_like(where, ALWAYS), torch.full_like(where, NEVER), where, where + 1):
            bits = kernel[0].conv_sign(kernel[1], call, words, threshold, flip)
            expected = (dots.long() >= threshold.long()[:, None, None]) ^ flip[:, None, None]
            assert torch.equal(bits, pack_activations(expected.float() - 0.5))


def test_nan_and_infinity_pass_the_epilogue(kernel: tuple[Border, str]) -> None:
    """They come in as scales and biases only; a rectifier leaves NaN as it is."""
    call = layer(64, 5, 1, 24)
    scale = torch.ones(24)
    bias = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0]).repeat(6)
    y = kernel[0].conv(kernel[1], call, pack_activations(call.x), scale, bias, relu=True)
    assert y[:, ::4].isnan().all()
    assert (y[:, 1::4] == float("inf")).all()
    assert (y[:, 2::4] == 0).all()


def test_panels_of_another_path_are_not_believed(kernel: tuple[Border, str]) -> None:
    """Their tag says who made them; the weights are expanded from the bits instead."""
    call = layer(64, 5, 1, 24)
    words = pack_activations(call.x)
    foreign = torch.full((1 << 16,), 7, dtype=torch.int8)
    foreign[:6] = torch.tensor(list(b"other\0"), dtype=torch.int8)
    library, path = kernel
    assert torch.equal(library.conv(path, call, words, panels=foreign), library.conv(path, call, words))


ARM_COMPILER = shutil.which("aarch64-linux-gnu-g++")


@pytest.mark.skipif(ARM_COMPILER is None, reason="no cross compiler aarch64-linux-gnu-g++")
def test_neon_compiles_and_equals_the_portable_path(tmp_path: Path) -> None:
    """Cross-compiled without a warning, and run on 400 geometries where an emulator is there."""
    program = tmp_path / "neon_check"
    sources = [str(file) for file in build.sources(only=["binary_conv"])]
    options = ["-std=c++17", "-O2", "-static", "-pthread", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    includes = ["-I", str(build.OPS / "binary_conv" / "csrc")]
    command = [str(ARM_COMPILER), *options, *includes, str(HERE / "neon_check.cpp"), *sources, "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None:
        pytest.skip("compiled; not run, as there is no qemu-aarch64")
    done = subprocess.run([emulator, str(program)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "400 geometries equal" in done.stdout
