"""The layers of chains: formulas, precision, pickling, compiling, export; and their descriptions."""

from __future__ import annotations

import copy
import io
from math import inf

import pytest
import torch
from torch import Tensor, nn

from convswap import StoreError
from convswap.surgery.residuals.layers import (
    ACTIVATIONS,
    ChannelClamp,
    ChannelGate,
    DivisibleSides,
    PartialActivation,
    build,
    describe,
)

X = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(7)) * 5


def layers() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "clamp": ChannelClamp(torch.tensor([-inf, 0.0, -1.0]), torch.tensor([inf, inf, 2.0])),
        "partial": PartialActivation(1, nn.SiLU()),
        "gate": ChannelGate(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 3, 1), nn.Sigmoid()),
        "divisible": DivisibleSides(2, 3),
        "conv": nn.Conv2d(3, 5, 3, 2, 1),
        "norm": nn.BatchNorm2d(3, 1e-3).eval(),
        "PReLU": nn.PReLU(3),
        "Hardtanh": nn.Hardtanh(-2, 3),
        "GELU": nn.GELU("tanh"),
    }


EXPECTED = {
    "clamp": lambda x: torch.stack([x[:, 0], x[:, 1].relu(), x[:, 2].clamp(-1, 2)], 1),
    "partial": lambda x: torch.stack([x[:, 0], *(x[:, c] * x[:, c].sigmoid() for c in (1, 2))], 1),
    "divisible": lambda x: x,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_formulas(name: str) -> None:
    torch.testing.assert_close(layers()[name](X), EXPECTED[name](X))


def test_the_gate_multiplies_by_a_function_of_the_means() -> None:
    gate = layers()["gate"]
    mean = X.mean((2, 3))
    down, up = (layer.weight[:, :, 0, 0] for layer in (gate[0], gate[2]))
    factor = ((mean @ down.T + gate[0].bias).relu() @ up.T + gate[2].bias).sigmoid()
    torch.testing.assert_close(gate(X), X * factor[:, :, None, None])


@pytest.mark.parametrize("name", layers())
def test_built_again_from_the_description(name: str) -> None:
    layer = layers()[name]
    again = build(describe(layer), X)
    again.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(again.eval()(X), layer(X))
    assert repr(again) == repr(layer)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_has_a_description(name: str) -> None:
    layer = getattr(nn, name)()
    again = build(describe(layer), X)
    assert torch.equal(again(X), layer(X))


def test_an_unknown_description_is_refused() -> None:
    with pytest.raises(StoreError, match="unknown layer 'hologram' of a removed residual block; a newer convswap"):
        build(["hologram", 3], X)


@pytest.mark.parametrize("name", ["clamp", "partial", "gate", "divisible"])
def test_copied_pickled_exported_and_compiled(name: str) -> None:
    layer = layers()[name]
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    expected = layer(X)
    assert torch.equal(torch.load(file, weights_only=False)(X), expected)
    assert torch.equal(copy.deepcopy(layer)(X), expected)
    assert torch.equal(torch.export.export(layer, (X,)).module()(X), expected)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(X), expected)


@pytest.mark.parametrize("name", ["clamp", "partial", "gate", "divisible"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_and_channels_last(name: str, dtype: torch.dtype) -> None:
    x = X.to(dtype, memory_format=torch.channels_last)
    result: Tensor = layers()[name].to(dtype)(x)
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert layers()[name](X.to("cpu")).dtype == torch.float32


def test_gradients_pass() -> None:
    for layer in layers().values():
        x = X.clone().requires_grad_()
        layer(x).square().sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()
