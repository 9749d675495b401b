"""Every native path of the dendritic convolution against the reference in float64, over drawn shapes and layouts."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from convswap.measure.peak import peak_memory
from convswap.ops import native as house
from convswap.ops.dendritic import dendritic_conv2d, dendritic_conv2d_reference, native, why_torch
from convswap.units import DendriticConv2d

Arguments = tuple[list[Tensor | None], dict[str, Any]]

if reason := house.why_missing():
    pytest.skip(f"no native kernels: {reason}", allow_module_level=True)


@pytest.fixture(params=native.PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each path in turn, forced; those that this processor lacks are skipped."""
    name: str = request.param
    if not native._has(native.PATHS[name]):
        pytest.skip(f"this processor lacks {name}")
    monkeypatch.setenv(native.VARIABLE, name)
    return name


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def lay_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values in another order of memory; `shifted` also begins at an odd address."""
    if layout == "last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return tensor.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "shifted":
        held = torch.full((*tensor.shape[:3], tensor.shape[3] + 3), torch.nan)
        held[..., 1:-2] = tensor
        return held[..., 1:-2]
    if layout == "batch last":
        return tensor.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    return tensor


LAYOUTS = ["contiguous", "contiguous", "last", "last", "transposed", "shifted", "batch last"]


@st.composite
def calls(draw: st.DrawFn) -> Arguments:
    """Tensors (x, weight, bias, output bias) and the geometry."""
    whole = functools.partial(st.integers, 1)
    groups, kernel = draw(st.sampled_from([1, 1, 2, 3])), (draw(whole(7)), draw(whole(5)))
    stride, dilation = (draw(whole(3)), draw(whole(3))), (draw(whole(3)), draw(whole(2)))
    padding = tuple(draw(st.integers(0, 4)) for _ in range(4))
    size = [
        least + draw(st.sampled_from([0, 1, 2, 5, 9, 17, 40]))
        for least in (d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    ]
    torch.manual_seed(draw(st.integers(0, 2**16)))
    torch.set_num_threads(draw(whole(4)))
    x = lay_out(torch.randn(draw(whole(3)), groups * draw(whole(6)), *size), draw(st.sampled_from(LAYOUTS)))
    weight = torch.randn(groups * draw(whole(40)), x.shape[1] // groups, *kernel)
    bias = torch.randn(weight.shape if draw(st.booleans()) else weight.shape[:2])
    tensors = [x, weight, bias, torch.randn(len(weight)) if draw(st.booleans()) else None]
    return tensors, {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


def reference(tensors: list[Tensor | None], geometry: dict[str, Any]) -> tuple[list[Tensor], Tensor]:
    """Inputs in float64, ready for their gradients, and the value."""
    exact = [None if t is None else t.double().requires_grad_() for t in tensors]
    return [t for t in exact if t is not None], dendritic_conv2d_reference(*exact, **geometry)  # type: ignore[arg-type]


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=4e-6 * (1 + float(expected.abs().max())))


@given(call=calls(), slopes=st.sampled_from([*LAYOUTS, "expanded"]))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_equals_the_reference_in_value_and_gradients(path: str, call: Arguments, slopes: str) -> None:
    tensors, geometry = call
    assert why_torch(*tensors[:3]) is None  # type: ignore[arg-type]
    assert native.path() == path
    inputs = [
        t.clone().requires_grad_() if t is not tensors[0] else t.detach().requires_grad_()
        for t in tensors
        if t is not None
    ]
    rest = [*inputs, None][:4]
    value = dendritic_conv2d(*rest, **geometry)  # type: ignore[arg-type]
    exact, expected = reference(tensors, geometry)
    assert_near(value.detach(), expected.detach())
    last = tensors[0].is_contiguous(memory_format=torch.channels_last) and not tensors[0].is_contiguous()  # type: ignore[union-attr]
    assert value.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    factor = torch.randn(()).expand(value.shape) if slopes == "expanded" else lay_out(torch.randn(value.shape), slopes)
    wanted = torch.autograd.grad(expected, exact, factor.double())
    for one, other in zip(torch.autograd.grad(value, inputs, factor), wanted, strict=True):
        assert_near(one, other)


@given(call=calls(), needs=st.tuples(st.booleans(), st.booleans(), st.booleans()))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_forms_only_the_gradients_asked_for(path: str, call: Arguments, needs: tuple[bool, ...]) -> None:
    (x, weight, bias, _), geometry = call
    assert x is not None
    assert weight is not None
    assert bias is not None
    value = native.forward(x, weight, bias, None, **geometry)
    slope = torch.randn_like(value)
    whole = native.backward(slope, x, weight, bias, **geometry, needs=(True, True, True))
    some = native.backward(slope, x, weight, bias, **geometry, needs=needs)
    for one, other, need in zip(some, whole, needs, strict=True):
        assert (one is not None) == need
        if one is not None:
            assert other is not None
            assert_near(one, other.double())


def example(batch: int = 3, size: int = 12, channels: int = 20) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(batch, 6, size, size), torch.randn(channels, 6, 3, 3), torch.randn(channels, 6)]


NAMES = ("stride", "padding", "dilation", "groups")
GEOMETRY = (1, 1), (1, 1, 1, 1), (1, 1), 1
ALL = (True, True, True)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_threads_change_nothing_but_roundings_and_repeat_their_bits(path: str, count: int) -> None:
    tensors = example()
    slope = torch.randn(3, 20, 12, 12)

    def run() -> list[Tensor]:
        value = native.forward(*tensors, None, *GEOMETRY)
        return [value, *(g for g in native.backward(slope, *tensors, *GEOMETRY, ALL) if g is not None)]

    torch.set_num_threads(1)
    one = run()
    torch.set_num_threads(count)
    several, again = run(), run()
    assert all(torch.equal(a, b) for a, b in zip(several, again, strict=True))
    assert torch.equal(one[0], several[0])
    for a, b in zip(one, several, strict=True):
        assert_near(b, a.double())


def test_several_python_threads_at_once(path: str) -> None:
    torch.set_num_threads(2)
    cases = [
        example(batch, size, channels) for batch, size, channels in [(2, 8, 5), (1, 30, 33), (4, 5, 16), (3, 17, 8)]
    ]

    def run(place: int) -> list[Tensor]:
        tensors = cases[place % len(cases)]
        value = native.forward(*tensors, None, *GEOMETRY)
        return [value, *(g for g in native.backward(value, *tensors, *GEOMETRY, ALL) if g is not None)]

    alone = [run(place) for place in range(len(cases))]
    with ThreadPoolExecutor(6) as pool:
        for place, found in enumerate(pool.map(run, range(60))):
            assert all(torch.equal(a, b) for a, b in zip(found, alone[place % len(cases)], strict=True))


WHOLE: dict[str, tuple[Any, ...]] = {  # (x, weight, stride, padding, dilation, groups)
    "more channels than a part": ((1, 130, 5, 6), (17, 130, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "more columns than two bands": ((2, 3, 4, 200), (40, 3, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "more rows than a band": ((1, 40, 60, 60), (5, 40, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "one long row": ((3, 5, 30, 31), (33, 5, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "pieces of a large kernel": ((2, 6, 20, 19), (18, 3, 7, 5), (3, 2), (3, 2, 3, 2), (1, 1), 2),
    "fewer images than threads": ((1, 9, 3, 3), (49, 9, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "depthwise": ((2, 33, 9, 9), (33, 1, 3, 3), (1, 1), (1, 1, 1, 1), (2, 2), 33),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("tapwise", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_whole_numbers_are_exact(path: str, name: str, tapwise: bool, last: bool) -> None:
    """Beyond every tile's size; and where x + bias is exactly 0 the rectifier is closed, as torch's is."""
    shape, kernel, *rest = WHOLE[name]
    torch.manual_seed(0)
    x, weight = torch.randint(-2, 3, shape).float(), torch.randint(-2, 3, kernel).float()
    bias = torch.randint(-2, 3, kernel if tapwise else kernel[:2]).float()
    x = lay_out(x, "last" if last else "contiguous")
    exact, expected = reference([x, weight, bias, None], dict(zip(NAMES, rest, strict=True)))
    slope = torch.randint(-2, 3, expected.shape).float()
    wanted = torch.autograd.grad(expected, exact, slope.double())
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found = native.forward(x, weight, bias, None, *rest)
        assert torch.equal(found.double(), expected)
        for one, other in zip(native.backward(slope, x, weight, bias, *rest, ALL), wanted, strict=True):
            assert one is not None
            assert torch.equal(one.double(), other)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_come_out_as_in_the_reference(path: str, value: float) -> None:
    x, weight, bias = example()
    x[1, 2, 0, 0] = value
    x[2, 4, 6, 5] = value
    tensors: list[Tensor | None] = [x, weight, bias, None]
    geometry = dict(zip(NAMES, GEOMETRY, strict=True))
    exact, expected = reference(tensors, geometry)
    found = native.forward(x, weight, bias, None, *GEOMETRY)
    torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-5, atol=1e-4, equal_nan=True)
    slope = torch.randn_like(found)
    gradients = native.backward(slope, x, weight, bias, *GEOMETRY, ALL)
    wanted = torch.autograd.grad(expected, exact, slope.double())
    for place in (0, 2):  # of the input and of the biases
        torch.testing.assert_close(gradients[place].double(), wanted[place], rtol=1e-5, atol=1e-4, equal_nan=True)  # type: ignore[union-attr]
    untouched = [c for c in range(6) if value == -torch.inf or c not in (2, 4)]
    assert_near(gradients[1][:, untouched], wanted[1][:, untouched])  # type: ignore[index]


@pytest.mark.parametrize(("value", "wide"), [(-torch.inf, None), (torch.nan, True), (torch.inf, True)])
def test_biases_that_are_not_finite(path: str, value: float, wide: bool | None) -> None:
    """Minus infinity closes a dendrite; the others reach what their window touches, padding included."""
    x, weight, bias = example()
    bias[3, 2] = value
    found = native.forward(x, weight, bias, None, *GEOMETRY)
    others = [o for o in range(20) if o != 3]
    assert torch.isfinite(found[:, others]).all()
    if wide is None:
        expected = dendritic_conv2d_reference(x.double(), weight.double(), bias.double(), None, *GEOMETRY)
        assert_near(found, expected)
    else:
        assert not torch.isfinite(found[:, 3]).any()
        assert torch.isnan(found[:, 3, 0]).all()


@pytest.mark.parametrize(
    ("shapes", "geometry"),
    [
        (((0, 3, 5, 5), (4, 3, 3, 3), (4, 3)), GEOMETRY),
        (((2, 3, 5, 0), (4, 3, 3, 3), (4, 3)), ((1, 1), (1, 1, 1, 1), (1, 1), 1)),
    ],
    ids=str,
)
def test_nothing_to_compute(shapes: Any, geometry: Any) -> None:
    tensors = [torch.randn(shape) for shape in shapes]
    native_inputs = [t.clone().requires_grad_() for t in tensors]
    found = dendritic_conv2d(*native_inputs, None, *geometry)
    exact = [t.double().requires_grad_() for t in tensors]
    expected = dendritic_conv2d(*exact, None, *geometry)  # float64: in torch
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected)
    for one, other in zip(
        torch.autograd.grad(found.sum(), native_inputs), torch.autograd.grad(expected.sum(), exact), strict=True
    ):
        torch.testing.assert_close(one.double(), other)


def test_pixels_that_no_tap_reads_have_no_gradient(path: str) -> None:
    """With a stride beyond the kernel whole phases of the input are skipped."""
    x, weight, bias = torch.randn(2, 3, 9, 9), torch.randn(5, 3, 1, 2), torch.randn(5, 3)
    dx, dw, db = native.backward(torch.randn(2, 5, 3, 3), x, weight, bias, (3, 3), (0, 0, 0, 0), (1, 1), 1, ALL)
    assert dx is not None
    assert dw is not None
    assert db is not None
    read = torch.zeros(9, 9, dtype=torch.bool)
    read[::3, ::3] = read[::3, 1::3] = True
    assert (dx[:, :, ~read] == 0).all()
    assert (dx[:, :, read] != 0).any()


def test_a_tap_that_sees_only_padding_has_no_gradient(path: str) -> None:
    x, weight, bias = torch.randn(2, 3, 2, 2), torch.randn(5, 3, 3, 3), torch.randn(5, 3, 3, 3)
    geometry = (1, 1), (4, 0, 4, 0), (1, 1), 1
    _, dw, db = native.backward(torch.randn(2, 5, 4, 4), x, weight, bias, *geometry, ALL)
    exact, expected = reference([x, weight, bias, None], dict(zip(NAMES, geometry, strict=True)))
    wanted = torch.autograd.grad(expected.sum(), exact)
    for found, other in zip((dw, db), wanted[1:], strict=True):
        assert found is not None
        assert ((found == 0) >= (other == 0)).all()


def build(batch: int) -> tuple[DendriticConv2d, Tensor]:
    return DendriticConv2d(64, 64, 3, padding=1, bias_init=0.3), torch.randn(batch, 64, 32, 32)


def test_memory_of_a_training_step_is_that_of_its_maps(path: str) -> None:
    """Output, its gradient and the input's: 3 maps. The activations of all connections are 64 maps."""
    pixels = 32 * 64 * 32 * 32 * 4
    assert peak_memory(functools.partial(build, 32), "training", threads=2, input_gradient=True) < 3.7 * pixels
    assert peak_memory(functools.partial(build, 32), "inference", threads=2) < 1.7 * pixels
