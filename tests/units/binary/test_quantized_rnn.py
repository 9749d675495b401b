"""Quantised recurrent layers: nn.LSTM and nn.RNN at 32 bits, their equations step by step below that."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from convswap.train import constrain
from convswap.units import QuantizedLSTM, QuantizedRNN


def level(x: float, bits: int) -> float:
    if bits == 1:
        return 1.0 if x >= 0 else -1.0
    n = 2 ** (bits - 1)
    return min(max(round(x * n) / n, -1.0), 1 - 1 / n)


def levels(x: torch.Tensor, bits: int, scale: float = 1.0) -> torch.Tensor:
    found = [scale * level(float(v) / scale, bits) for v in x.detach().flatten()]
    return torch.tensor(found, dtype=torch.float64).view_as(x)


def naive(layer, x: torch.Tensor):
    """One layer, one direction, from zero states: number by number where it matters."""
    w, a = layer.weight_bits, layer.activation_bits
    scales = [1.0 if w == 1 else float(m.detach().abs().max()) for m in (layer.weight_ih_l0, layer.weight_hh_l0)]
    into, back = levels(layer.weight_ih_l0, w, scales[0]), levels(layer.weight_hh_l0, w, scales[1])
    h = c = torch.zeros(x.shape[1], layer.hidden_size, dtype=torch.float64)
    outputs = []
    for x_t in x:
        z = levels(x_t, a) @ into.T + layer.bias_ih_l0 + levels(h, a) @ back.T + layer.bias_hh_l0
        if isinstance(layer, nn.RNN):
            h = z.tanh() if layer.nonlinearity == "tanh" else z.relu()
        else:
            i, f, g, o = z.split(layer.hidden_size, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs), h, c


@pytest.mark.parametrize("bits", [(1, 1), (2, 3), (4, 4), (1, 4)])
def test_the_lstm_is_its_equations(bits) -> None:
    layer = QuantizedLSTM(3, 5, weight_bits=bits[0], activation_bits=bits[1], dtype=torch.float64)
    x = 2 * torch.randn(6, 2, 3, dtype=torch.float64)
    output, (h, c) = layer(x)
    for got, expected in zip((output, h[0], c[0]), naive(layer, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_the_rnn_is_its_equation(nonlinearity) -> None:
    layer = QuantizedRNN(3, 5, nonlinearity=nonlinearity, weight_bits=3, activation_bits=3, dtype=torch.float64)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    output, h = layer(x)
    expected = naive(layer, x)
    torch.testing.assert_close(output, expected[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(h[0], expected[1], rtol=0, atol=1e-12)


STOCK = [(QuantizedLSTM, nn.LSTM), (QuantizedRNN, nn.RNN)]
FORMS = [
    {},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"bias": False, "num_layers": 3},
]


@pytest.mark.parametrize(("cls", "stock"), STOCK)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_32_bits_are_the_stock_layer_and_16_are_near_it(cls, stock, form) -> None:
    layer = stock(4, 6, **form, dtype=torch.float64)
    x = torch.randn(5, 3, 4, dtype=torch.float64).clamp(-1, 0.9)
    expected, state = layer(x)
    exact = cls.from_rnn(layer, weight_bits=32, activation_bits=32)
    assert exact.state_dict().keys() == layer.state_dict().keys()
    output, end = exact(x)
    assert torch.equal(output, expected)
    states = (end, state) if isinstance(state, tuple) else ((end,), (state,))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*states, strict=True))
    near = cls.from_rnn(layer, weight_bits=16, activation_bits=16)
    output, end = near(x)
    torch.testing.assert_close(output, expected, rtol=0, atol=2e-3)
    states = (end, state) if isinstance(state, tuple) else ((end,), (state,))
    for ours, theirs in zip(*states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)
    if not form:
        torch.testing.assert_close(near(x[:, 0])[0], output[:, 0])
        given = near(x[2:], states[0] if cls is QuantizedLSTM else states[0][0])[0]
        stock_given = layer(x[2:], states[1] if cls is QuantizedLSTM else states[1][0])[0]
        torch.testing.assert_close(given, stock_given, rtol=0, atol=3e-3)


def test_gradients_go_straight_through_to_the_latent_weights() -> None:
    layer = QuantizedRNN(2, 3, weight_bits=2, activation_bits=32, dtype=torch.float64)
    x = torch.randn(4, 5, 2, dtype=torch.float64)
    layer(x)[0].square().sum().backward()
    stock = nn.RNN(2, 3, dtype=torch.float64)
    stock.load_state_dict(layer.state_dict())
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0"):
            getattr(stock, name).copy_(layer.quantized_weight(name))
    stock(x)[0].square().sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, getattr(stock, name).grad, rtol=1e-10, atol=1e-12)


def test_it_learns_to_remember_the_first_sign() -> None:
    torch.manual_seed(0)
    layer, head = QuantizedLSTM(1, 16, weight_bits=2, activation_bits=2), nn.Linear(16, 1)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], 0.02)
    for _ in range(120):
        x = torch.randn(6, 64, 1)
        loss = nn.functional.binary_cross_entropy_with_logits(head(layer(x)[0][-1])[:, 0], (x[0, :, 0] > 0).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        constrain(layer)
    x = torch.randn(6, 500, 1)
    right = (head(layer(x)[0][-1])[:, 0] > 0) == (x[0, :, 0] > 0)
    assert float(right.float().mean()) > 0.9
    assert all(float(p.detach().abs().max()) <= 1 for n, p in layer.named_parameters() if n.startswith("weight"))


def test_copies_compilation_and_dropout() -> None:
    layer = QuantizedLSTM(3, 4, num_layers=2, dropout=0.5).eval()
    x = torch.randn(5, 2, 3)
    expected = layer(x)[0]
    assert torch.equal(copy.deepcopy(layer)(x)[0], expected)
    assert not torch.equal(layer.train()(x)[0], expected)
    torch._dynamo.reset()
    compiled = torch.compile(layer.eval(), backend="aot_eager")
    torch.testing.assert_close(compiled(x)[0], expected)
    assert "weight_bits=4" in repr(layer)
    low = QuantizedLSTM(3, 4).bfloat16()
    assert low(x.bfloat16())[0].dtype == torch.bfloat16


def test_log_levels_are_powers_of_two() -> None:
    layer = QuantizedLSTM(3, 8, scheme="log", weight_bits=3)
    found = layer.quantized_weight("weight_hh_l0").detach().unique().tolist()
    assert len(found) <= 7
    assert all(v == 0 or math.log2(abs(v)) == round(math.log2(abs(v))) for v in found)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weight_bits": 0}, "weight_bits=0"),
        ({"activation_bits": 31}, "activation_bits=31"),
        ({"scheme": "cubic"}, "scheme='cubic'"),
        ({"weight_range": "std"}, "weight_range='std'"),
        ({"proj_size": 2}, "proj_size=2"),
    ],
)
def test_wrong_options_are_named(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizedLSTM(3, 4, **wrong)


def test_wrong_inputs_are_named() -> None:
    layer = QuantizedLSTM(3, 4)
    with pytest.raises(ValueError, match="packed sequences"):
        layer(pack_sequence([torch.zeros(2, 3)]))
    with pytest.raises(ValueError, match=r"shape \(5, 2, 4\)"):
        layer(torch.zeros(5, 2, 4))
    with pytest.raises(ValueError, match="length 0"):
        layer(torch.zeros(0, 2, 3))
