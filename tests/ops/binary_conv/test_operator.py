"""The operators on a CPU: every path against the reference, and all that torch asks of an operator."""

from __future__ import annotations

import copy
import ctypes
import multiprocessing
import threading
import zlib
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from shapes import Call, calls
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from convswap.ops import native
from convswap.ops.binary_conv import (
    binary_conv2d,
    binary_conv2d_reference,
    binary_conv2d_sign,
    binary_pack,
    native_calls,
    pack_activations,
    pack_weight,
    path_names,
    register_flops,
)

PATHS = [*path_names(), "torch"]
VARIABLE = "CONVSWAP_BINARY_CONV"


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each path of this machine in turn, forced."""
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


@pytest.fixture(params=dict.fromkeys([PATHS[0], "torch"]))
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The best path and torch: for what does not depend on the kernel."""
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


def dots(call: Call, words: Tensor) -> Tensor:
    ones = torch.ones(call.channels[1])
    return binary_conv2d(words, call.packed, ones, None, None, None, *call.channels, *call.where, False)


def check(call: Call) -> None:
    """Bit for bit: the integers, the floats of all epilogues, and the bits of the sign epilogue."""
    groups, outputs = call.where[3], call.channels[1]
    words = binary_pack(call.x, None, None, groups)
    expected = binary_conv2d_reference(call.x, call.weight, None, None, None, *call.where)
    y = dots(call, words)
    assert torch.equal(y, expected)
    assert y.is_contiguous(memory_format=torch.channels_last)
    scale, bias, map_ = torch.randn(outputs), torch.randn(outputs), torch.rand(len(call.x), *expected.shape[2:])
    y = binary_conv2d(words, call.packed, scale, bias, map_, None, *call.channels, *call.where, True)
    assert torch.equal(y, binary_conv2d_reference(call.x, call.weight, scale, bias, map_, *call.where, relu=True))
    y = binary_conv2d(words, call.packed, scale, None, None, None, *call.channels, *call.where, False)
    assert torch.equal(y, binary_conv2d_reference(call.x, call.weight, scale, None, None, *call.where))
    threshold, flip = torch.randint(-9, 10, (outputs,), dtype=torch.int32), torch.rand(outputs) < 0.5
    bits = binary_conv2d_sign(words, call.packed, threshold, flip, None, *call.channels, *call.where)
    assert torch.equal(bits, pack_activations(expected, threshold.float(), flip))


@pytest.mark.skipif(PATHS == ["torch"], reason="no library of native kernels")
@pytest.mark.parametrize("name", PATHS[:-1])
@given(call=calls())
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_native_path_equals_the_reference(name: str, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    monkeypatch.setenv(VARIABLE, name)
    check(call)


@given(call=calls())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_torch_equals_the_reference(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    monkeypatch.setenv(VARIABLE, "torch")
    check(call)


def example(dtype: torch.dtype = torch.float32, groups: int = 1) -> tuple[Any, ...]:
    """Arguments of `binary_conv2d`: 130 -> 24 channels."""
    torch.manual_seed(0)
    words = pack_activations(torch.randn(2, 130, 7, 6), groups=groups)
    weight = pack_weight(torch.randn(24, 130 // groups, 3, 3), groups)
    scale, bias, map_ = torch.randn(24).to(dtype), torch.randn(24).to(dtype), torch.rand(2, 4, 3).to(dtype)
    where = [2, 2], [1, 1, 1, 1], [1, 1], groups
    return words, weight, scale, bias, map_, None, 130, 24, *where, True


def test_opcheck(either: str) -> None:
    arguments = example()
    torch.library.opcheck(binary_conv2d, arguments)
    leaves = [a.clone().requires_grad_() if i in (2, 3, 4) else a for i, a in enumerate(arguments)]
    torch.library.opcheck(binary_conv2d, tuple(leaves))
    words, weight, *_ = arguments
    signs = words, weight, torch.zeros(24, dtype=torch.int32), torch.rand(24) < 0.5, None, *arguments[6:12]
    torch.library.opcheck(binary_conv2d_sign, signs)
    torch.library.opcheck(binary_pack, (torch.randn(2, 70, 3, 4), torch.randn(70), None, 1))


@pytest.mark.parametrize("relu", [False, True])
def test_gradient_of_scale_bias_and_map(either: str, relu: bool) -> None:
    words, weight, *rest = example(torch.float64)
    leaves = [t.requires_grad_() for t in rest[:3]]

    def run(*given: Tensor) -> Tensor:
        return binary_conv2d(words, weight, *given, *rest[3:-1], relu)

    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_round_once(path: str, dtype: torch.dtype) -> None:
    words, weight, scale, bias, map_, *rest = example(dtype)
    y = binary_conv2d(words, weight, scale, bias, map_, *rest)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    wide = torch.promote_types(dtype, torch.float32)
    given = [t.to(wide) for t in (scale, bias, map_)]
    ones = torch.ones(24)
    sums = binary_conv2d(words, weight, ones, None, None, *rest[:-1], False).to(wide)
    expected = (sums * given[0][:, None, None] * given[2][:, None] + given[1][:, None, None]).relu().to(dtype)
    assert torch.equal(y, expected)


def test_nan_of_the_scale_reaches_the_output(path: str) -> None:
    words, weight, scale, bias, map_, *rest = example()
    scale[3] = float("nan")
    bias[5] = float("inf")
    y = binary_conv2d(words, weight, scale, bias, map_, *rest)
    assert y[:, 3].isnan().all()
    assert (y[:, 5] == float("inf")).all()
    assert y[:, [0, 1, 2, 4]].isfinite().all()


def test_strided_and_misaligned_operands(path: str) -> None:
    words, weight, *rest = example()
    expected = binary_conv2d(words, weight, *rest)
    spread = torch.zeros(2, 7, 12, 6, dtype=torch.int64)[:, :, ::2, ::2].copy_(words)
    shifted = torch.zeros(weight.numel() + 1, dtype=torch.int64)[1:].view(weight.shape).copy_(weight)
    scale = torch.stack([rest[0], rest[0]], 1)[:, 0]
    assert torch.equal(binary_conv2d(spread, shifted, scale, *rest[1:]), expected)


@pytest.mark.parametrize("shape", [(0, 130, 7, 6), (2, 130, 0, 6), (2, 130, 7, 0)])
def test_nothing_to_compute(path: str, shape: tuple[int, ...]) -> None:
    _, weight, scale, bias, _, panels, *rest = example()
    words = binary_pack(torch.randn(shape), None, None, 1)
    where = *rest[:2], (1, 1), (0, 0, 0, 0) if 0 in shape[2:] else (1, 1, 1, 1), (1, 1), 1
    if 0 in shape[2:]:
        weight = weight[:, :, :1, :1].contiguous()
    y = binary_conv2d(words, weight, scale, bias, None, panels, *where, False)
    assert y.shape == (shape[0], 24, *shape[2:])
    threshold = torch.zeros(24, dtype=torch.int32)
    bits = binary_conv2d_sign(words, weight, threshold, threshold.bool(), None, *where)
    assert bits.shape == (shape[0], *shape[2:], 1)


def test_wrong_arguments_are_named(path: str) -> None:
    words, weight, *rest = example()
    with pytest.raises(ValueError, match="words of shape"):
        binary_conv2d(words[..., :1], weight, *rest)
    with pytest.raises(ValueError, match="packed weight"):
        binary_conv2d(words, weight[:, :1], *rest)
    with pytest.raises(ValueError, match=r"words of torch\.int32 is not allowed; give int64"):
        binary_conv2d(words.int(), weight, *rest)
    with pytest.raises(ValueError, match=r"weight of torch\.float32 is not allowed; give int64"):
        binary_conv2d(words, weight.float(), *rest)
    with pytest.raises(ValueError, match=r"too small for the kernel 3x3"):
        binary_conv2d(words[:, :1], weight, *rest[:6], [1, 1], [0, 0, 0, 0], [1, 1], 1, False)
    if path != "torch":
        with pytest.raises(ValueError, match=r"\(24,\)"):
            binary_conv2d(words, weight, rest[0][:5], *rest[1:])
    with pytest.raises(ValueError, match="stride"):
        binary_conv2d(words, weight, *rest[:6], [0, 1], *rest[7:])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_defaults_of_torch_change_nothing(path: str, dtype: torch.dtype) -> None:
    words, weight, *rest = example()
    threshold, x = torch.zeros(24, dtype=torch.int32), torch.randn(2, 130, 9, 8)
    where = rest[4:-1]
    expected = binary_conv2d(words, weight, *rest)
    bits = binary_conv2d_sign(words, weight, threshold, threshold.bool(), None, *where)
    packed = binary_pack(x, None, None, 1)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device("meta"):
            y = binary_conv2d(words, weight, *rest)
            assert y.dtype == torch.float32
            assert torch.equal(y, expected)
            assert torch.equal(binary_conv2d_sign(words, weight, threshold, threshold.bool(), None, *where), bits)
            assert torch.equal(binary_pack(x, None, None, 1), packed)
    finally:
        torch.set_default_dtype(before)


def test_panels_of_another_size_are_not_read(path: str) -> None:
    words, weight, *rest = example()
    expected = binary_conv2d(words, weight, *rest)
    for size in (0, 3, 64):
        rest[3] = torch.zeros(size, dtype=torch.int8)
        assert torch.equal(binary_conv2d(words, weight, *rest), expected)


@pytest.mark.parametrize(("spread", "step"), [(1 << 20, 1), (1 << 60, 1), (1, 1 << 20), (1 << 20, 1 << 40)])
def test_spread_kernels_and_long_steps_take_no_memory(
    monkeypatch: pytest.MonkeyPatch, path: str, spread: int, step: int
) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 130, 9, 8), torch.randn(24, 130, 3, 3)
    words, packed = binary_pack(x, None, None, 1), pack_weight(weight)
    where = [step, step], [spread] * 4, [spread] * 2, 1
    if path == "torch":
        monkeypatch.delenv(VARIABLE)
    y = binary_conv2d(words, packed, torch.ones(24), None, None, None, 130, 24, *where, False)
    middle = binary_conv2d_reference(x, weight[:, :, 1:2, 1:2])
    if spread > 1:
        assert torch.equal(y, middle[:, :, ::step, ::step])
    else:
        assert torch.equal(y, binary_conv2d_reference(x, weight, None, None, None, (1, 1), (1, 1, 1, 1))[:, :, :1, :1])


def test_unknown_path_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "abacus")
    with pytest.raises(ValueError, match=r"abacus.*cannot be used"):
        binary_conv2d(*example())


def test_path_of_another_processor_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    library = native.library()
    if library is None:
        pytest.skip(str(native.why_missing()))
    lacking = [name for name, (_, available) in native_calls._paths(library).items() if not available]
    if not lacking:
        pytest.skip("this machine has every path")
    monkeypatch.setenv(VARIABLE, lacking[0])
    with pytest.raises(ValueError, match="lacks its instructions"):
        binary_conv2d(*example())


def test_narrow_groups_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    words, weight = pack_activations(torch.randn(1, 32, 5, 5), groups=32), pack_weight(torch.randn(32, 1, 3, 3), 32)
    where = 32, 32, (1, 1), (1, 1, 1, 1), (1, 1), 32
    reason = native_calls.plan(words.shape, weight.shape, *where).reason
    assert reason is not None
    if native.library() is not None:
        assert "depthwise" in reason
    y = binary_conv2d(words, weight, torch.ones(32), None, None, None, *where, False)
    assert y.shape == (1, 32, 5, 5)


def test_without_a_library_torch_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    arguments = example()
    words, weight = arguments[:2]
    sign = words, weight, torch.zeros(24, dtype=torch.int32), torch.rand(24) < 0.5, None, *arguments[6:12]
    x, threshold = torch.randn(2, 70, 3, 4), torch.randn(70)
    before = binary_conv2d(*arguments), binary_conv2d_sign(*sign), binary_pack(x, threshold, None, 1)
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(native, "why_missing", lambda: "taken away")
    after = binary_conv2d(*arguments), binary_conv2d_sign(*sign), binary_pack(x, threshold, None, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert path_names() == []
    reason = native_calls.plan(words.shape, weight.shape, *arguments[6:12]).reason
    assert reason is not None
    assert reason.startswith("no library of native kernels")
    monkeypatch.setenv(VARIABLE, "portable")
    with pytest.raises(ValueError, match="taken away"):
        binary_conv2d(*arguments)


def test_compiles_as_one_graph(either: str) -> None:
    words, weight, scale, bias, map_, *rest = example()

    def run(x: Tensor, scale: Tensor) -> Tensor:
        y = binary_conv2d(binary_pack(x, None, None, 1) ^ words, weight, scale, bias, map_, *rest)
        return y * 2

    x = torch.randn(2, 130, 7, 6)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(run, fullgraph=True)(x, scale), run(x, scale))


def test_counts_binary_operations(either: str) -> None:
    register_flops()
    arguments = example()
    with FlopCounterMode(display=False) as counter:
        y = binary_conv2d(*arguments)
        binary_pack(torch.randn(2, 130, 7, 6), None, None, 1)
    assert counter.get_total_flops() == 2 * y.numel() * 130 * 9
    signs = *arguments[:2], torch.zeros(24, dtype=torch.int32), torch.zeros(24, dtype=torch.bool), None
    with FlopCounterMode(display=False) as counter:
        binary_conv2d_sign(*signs, *arguments[6:12])
    assert counter.get_total_flops() == 2 * y.numel() * 130 * 9


def large() -> tuple[Any, ...]:
    """A layer large enough for several threads."""
    torch.manual_seed(1)
    words, weight = pack_activations(torch.randn(2, 128, 28, 28)), pack_weight(torch.randn(128, 128, 3, 3))
    where = (1, 1), (1, 1, 1, 1), (1, 1), 1
    return words, weight, torch.randn(128), torch.randn(128), None, None, 128, 128, *where, False


def test_number_of_threads_changes_nothing(path: str) -> None:
    arguments = large()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(binary_conv2d(*arguments))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_several_python_threads_at_once(path: str) -> None:
    arguments = large()
    others = [copy.copy(list(example())), list(large())]
    expected = [binary_conv2d(*arguments), binary_conv2d(*others[0]), binary_conv2d(*others[1])]
    failures: list[str] = []

    def work(which: int) -> None:
        torch.set_num_threads(2)
        given = [arguments, *others][which % 3]
        for _ in range(8):
            if not torch.equal(binary_conv2d(*given), expected[which % 3]):
                failures.append(f"thread {which}")

    before = torch.get_num_threads()
    workers = [threading.Thread(target=work, args=(which,)) for which in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    torch.set_num_threads(before)
    assert not failures


def checksum(arguments: tuple[Any, ...]) -> int:
    """Of the result's bytes, without any of torch's own parallel loops: those hang after a fork."""
    y = binary_conv2d(*arguments)
    return zlib.crc32(ctypes.string_at(y.data_ptr(), y.numel() * y.element_size()))


def _child(queue: Any, arguments: tuple[Any, ...]) -> None:
    queue.put(checksum(arguments))


@pytest.mark.skipif(PATHS == ["torch"], reason="torch's own threads do not survive a fork")
def test_after_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, PATHS[0])
    arguments, before = large(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = checksum(arguments)
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        child = context.Process(target=_child, args=(queue, arguments), daemon=True)
        child.start()
        child.join(60)
    finally:
        torch.set_num_threads(before)
    if child.exitcode is None:
        child.kill()
    assert child.exitcode == 0
    assert queue.get() == expected
