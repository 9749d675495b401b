"""Which code computes a dendritic convolution, and what is said when it is not the native kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from convswap.errors import ConvswapError
from convswap.ops import native as house
from convswap.ops.dendritic import dendritic_conv2d, dendritic_conv2d_reference, native, why_torch

GEOMETRY = (1, 1), (1, 1, 1, 1), (1, 1), 1


@pytest.fixture(autouse=True)
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(native.VARIABLE, raising=False)


@pytest.fixture
def present() -> None:
    if reason := house.why_missing():
        pytest.skip(f"no native kernels: {reason}")


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if there were no library."""
    monkeypatch.setenv("CONVSWAP_NATIVE", "0")
    house.forget()
    yield
    monkeypatch.undo()
    house.forget()


def tensors(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=dtype) for shape in ((2, 3, 7, 6), (5, 3, 3, 3), (5, 3))]


def works() -> None:
    found = [t.requires_grad_() for t in tensors()]
    exact = [t.detach().double().requires_grad_() for t in found]
    value, expected = dendritic_conv2d(*found, None, *GEOMETRY), dendritic_conv2d_reference(*exact, None, *GEOMETRY)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(
        torch.autograd.grad(value.square().sum(), found),
        torch.autograd.grad(expected.square().sum(), exact),
        strict=True,
    ):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


def test_without_the_library_torch_computes_and_says_why(absent: None) -> None:
    assert why_torch(*tensors()) == "there are no native kernels: switched off by CONVSWAP_NATIVE=0"
    assert native.path() is None
    works()


@pytest.mark.parametrize("name", native.PATHS)
def test_a_path_without_the_library_is_an_error(absent: None, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.VARIABLE, name)
    with pytest.raises(ValueError, match=f"{name}.* no native kernels: switched off by CONVSWAP_NATIVE=0"):
        dendritic_conv2d(*tensors(), None, *GEOMETRY)
    with pytest.raises(ConvswapError, match="no native kernels"):
        native._loaded()


def test_a_library_without_these_kernels_is_as_none(present: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house, "library", object)
    assert why_torch(*tensors()) == "there are no native kernels: the library was built without them"
    works()


def test_the_best_path_of_the_processor_is_chosen(present: None) -> None:
    features = house.cpu_features()
    wanted = "avx512" if "avx512" in features else "avx2" if "avx2" in features else "portable"
    assert native.path() == wanted
    assert why_torch(*tensors()) is None
    works()


def test_torch_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.VARIABLE, "torch")
    assert why_torch(*tensors()) == "CONVSWAP_DENDRITIC_CONV=torch asks for torch"
    assert native.path() is None
    works()


@pytest.mark.parametrize("name", ["avx512", "avx2"])
def test_a_path_that_the_processor_lacks_is_an_error(present: None, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.VARIABLE, name)
    monkeypatch.setattr(native, "_has", lambda code: False)
    with pytest.raises(ValueError, match=f"'{name}' is not allowed: this processor lacks the instructions of {name}"):
        dendritic_conv2d(*tensors(), None, *GEOMETRY)


def test_the_library_itself_refuses_a_path_it_does_not_know(present: None) -> None:
    library = native._loaded()
    assert library.convswap_dendritic_path(9) == 0
    geometry = native._Geometry(*[1] * 30)
    assert library.convswap_dendritic_forward(9, geometry, *[None] * 5) == house.Status.UNSUPPORTED
    assert library.convswap_dendritic_forward(0, native._Geometry(), *[None] * 5) == house.Status.BAD_ARGUMENT
    assert library.convswap_dendritic_backward(9, geometry, *[None] * 7) == house.Status.UNSUPPORTED


@pytest.mark.parametrize("name", ["avx", "AVX2", "0"])
def test_a_path_that_does_not_exist_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.VARIABLE, name)
    with pytest.raises(ValueError, match=f"{name}.* give avx512, avx2, portable or torch"):
        dendritic_conv2d(*tensors(), None, *GEOMETRY)


def test_other_precisions_are_torchs(present: None) -> None:
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert "for float32" in str(why_torch(*tensors(dtype)))
    x, weight, bias = tensors()
    assert "for float32" in str(why_torch(x.bfloat16(), weight, bias))
    assert "on meta" in str(why_torch(x.to("meta"), weight, bias))
    assert why_torch(x[:0], weight, bias) == "there is nothing to compute"


FORKED = """
import ctypes, os, sys, torch
from convswap.ops.dendritic import native
torch.set_num_threads(3)
torch.manual_seed(0)
tensors = [torch.randn(shape) for shape in ((4, 6, 24, 24), (40, 6, 3, 3), (40, 6))]
def run():
    value = native.forward(*tensors, None, (1, 1), (1, 1, 1, 1), (1, 1), 1)
    found = [value, *native.backward(value, *tensors, (1, 1), (1, 1, 1, 1), (1, 1), 1, (True,) * 3)]
    return [ctypes.string_at(t.data_ptr(), t.nbytes) for t in found]  # torch's own parallel loops hang after a fork
before = run()
child = os.fork()
same = before == run()
if not child:
    os._exit(0 if same else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or (0 if same else 4))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork_the_child_computes_the_same(present: None) -> None:
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=300)


def test_compiles_and_exports_whole(present: None) -> None:
    x, weight, bias = tensors()

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)

        def forward(self, x: Tensor) -> Tensor:
            return dendritic_conv2d(x, self.weight, self.bias, None, *GEOMETRY) * 2

    layer = Layer()
    expected = layer(x)
    expected.square().sum().backward()
    wanted = [p.grad for p in layer.parameters()]
    layer.zero_grad()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    found = compiled(x)
    found.square().sum().backward()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for parameter, gradient in zip(layer.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=0)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(layer, (x,), dynamic_shapes={"x": {0: batch}})
    more = torch.cat([x, -x, x])
    torch.testing.assert_close(program.module()(more), layer(more), rtol=0, atol=0)
