"""Recurrent layers with quantised weights and activations (arXiv:1609.07061, the Penn Treebank experiments)."""

from __future__ import annotations

from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from ...errors import UsageError, check_choice
from ...hooks import Hooks
from .quantized import quantized_weight
from .quantizers import FULL, SCHEMES, check_bits, quantize_ste

State = tuple[Tensor, ...]


class _QuantizedRecurrence(Hooks, nn.RNNBase):
    """The shared part of both layers: options, quantised weights, and the loop over layers, directions and time."""

    def __init__(
        self,
        *arguments: Any,
        weight_bits: int = 4,
        activation_bits: int = 4,
        scheme: str = "linear",
        weight_range: str = "max",
        **keywords: Any,
    ) -> None:
        check_bits("weight_bits", weight_bits)
        check_bits("activation_bits", activation_bits)
        check_choice("scheme", scheme, SCHEMES)
        check_choice("weight_range", weight_range, ("max", "unit"))
        super().__init__(*arguments, **keywords)
        if self.proj_size:
            raise UsageError(f"proj_size={self.proj_size!r} is not allowed; quantised layers have no projection (0)")
        self.weight_bits, self.activation_bits = weight_bits, activation_bits
        self.scheme, self.weight_range = scheme, weight_range

    @classmethod
    def from_rnn(cls, layer: nn.RNNBase, **options: Any) -> Self:
        """A quantised layer with the shape and a copy of the weights of a stock one (`nn.LSTM`, `nn.RNN`).

        Raises:
            ValueError: an option is not allowed, or the stock layer has a projection.
        """
        own = {"nonlinearity": layer.nonlinearity} if isinstance(layer, nn.RNN) else {"proj_size": layer.proj_size}
        weight = cast(Tensor, layer.weight_ih_l0)
        twin = cls(
            layer.input_size,
            layer.hidden_size,
            num_layers=layer.num_layers,
            bias=layer.bias,
            batch_first=layer.batch_first,
            dropout=layer.dropout,
            bidirectional=layer.bidirectional,
            **own,
            **options,
            device=weight.device,
            dtype=weight.dtype,
        )
        twin.load_state_dict(layer.state_dict())
        return twin.train(layer.training)

    @torch.no_grad()
    def constrain_(self) -> None:
        """Clip the latent weights to [-1, 1], where weights are quantised; see `convswap.train.constrain`."""
        if self.weight_bits != FULL:
            for name, parameter in self.named_parameters():
                if name.startswith("weight"):
                    parameter.clamp_(-1, 1)

    def quantized_weight(self, name: str) -> Tensor:
        """The quantised weight of a parameter, e.g. of `"weight_hh_l0"`; differentiable, straight through."""
        latent = cast(Tensor, getattr(self, name))
        return quantized_weight(latent, self.weight_bits, self.scheme, self.weight_range).to(latent.dtype)

    def _cell(self, gates: Tensor, state: State) -> State:
        """One step: the sum of both products and the last state -> the new state, hidden vector first."""
        raise NotImplementedError(f"{type(self).__name__} must write _cell()")

    def _quantized(self, x: Tensor) -> Tensor:
        return quantize_ste(x, self.activation_bits, self.scheme)

    def _checked(self, input: Tensor | PackedSequence) -> Tensor:
        if isinstance(input, PackedSequence):
            raise UsageError("packed sequences need weight_bits=32 and activation_bits=32; pad, and mask the loss")
        if input.dim() not in (2, 3) or input.shape[-1] != self.input_size:
            raise UsageError(
                f"got an input of shape {tuple(input.shape)}; it must have 2 or 3 dimensions, the last of "
                f"{self.input_size}"
            )
        return input

    def _run(self, input: Tensor, start: State) -> tuple[Tensor, State]:
        """(T, N, in) and states (layers * directions, N, hidden) -> (T, N, directions * hidden) and the last states."""
        directions = 2 if self.bidirectional else 1
        x, ends = input, []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                index = layer * directions + direction
                suffix = f"_l{layer}" + ("_reverse" if direction else "")
                output, end = self._one(x, tuple(s[index] for s in start), suffix, backwards=bool(direction))
                outputs.append(output)
                ends.append(end)
            x = outputs[0] if directions == 1 else torch.cat(outputs, 2)
            if self.dropout and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, tuple(torch.stack(parts) for parts in zip(*ends, strict=True))

    def _one(self, x: Tensor, state: State, suffix: str, *, backwards: bool) -> tuple[Tensor, State]:
        bias_in = getattr(self, f"bias_ih{suffix}") if self.bias else None
        bias_hidden = getattr(self, f"bias_hh{suffix}") if self.bias else None
        weight = self.quantized_weight(f"weight_hh{suffix}")
        from_input = F.linear(self._quantized(x), self.quantized_weight(f"weight_ih{suffix}"), bias_in)
        steps = list(from_input.unbind(0))
        outputs = []
        for gates in reversed(steps) if backwards else steps:
            state = self._cell(gates + F.linear(self._quantized(state[0]), weight, bias_hidden), state)
            outputs.append(state[0])
        return torch.stack(outputs[::-1] if backwards else outputs), state

    def _all(self, input: Tensor, start: State | None, count: int) -> tuple[Tensor, State]:
        """The layouts of `nn.RNNBase`: batch first or second, or no batch at all."""
        batched = input.dim() == 3
        x = input if batched else input.unsqueeze(1)
        x = x.transpose(0, 1) if self.batch_first and batched else x
        if x.shape[0] == 0:
            raise UsageError("got a sequence of length 0")
        if start is None:
            layers = self.num_layers * (2 if self.bidirectional else 1)
            start = (x.new_zeros(layers, x.shape[1], self.hidden_size),) * count
        elif not batched:
            start = tuple(s.unsqueeze(1) for s in start)
        output, end = self._run(x, start)
        if not batched:
            return output.squeeze(1), tuple(s.squeeze(1) for s in end)
        return (output.transpose(0, 1) if self.batch_first else output), end

    def extra_repr(self) -> str:
        """The shape, as torch prints it, and the options."""
        text = f"{super().extra_repr()}, weight_bits={self.weight_bits}, activation_bits={self.activation_bits}"
        return f"{text}, scheme={self.scheme!r}, weight_range={self.weight_range!r}"


class QuantizedLSTM(_QuantizedRecurrence, nn.LSTM):
    """`nn.LSTM` whose products are of quantised weights with quantised inputs and hidden vectors.

    `i, f, g, o = W_q q(x_t) + b + U_q q(h_{t-1}) + b'`, `c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g)`,
    `h_t = sigmoid(o) tanh(c_t)`. Parameters, their names and all arguments are those of `nn.LSTM`, so its state dicts
    load; 32 bits for both is `nn.LSTM` itself. q and W_q are those of `QuantizedConv2d`; inputs beyond [-1, 1] are cut.
    The paper says little about the cell c, the gates and the biases. That they stay real is inferred.

    Args:
        weight_bits, activation_bits: 1 to 16, or 32 for full precision. The paper's best has 4 and 4.
        scheme: `"linear"` or `"log"` levels.
        weight_range: `"max"` (of |W|, per matrix) or `"unit"`, [-1, 1].

    The other arguments are those of `nn.LSTM`, without `proj_size`.

    Raises:
        ValueError: an option is not allowed; at the call, a packed sequence (unless nothing is quantised) or an input
            of the wrong shape.
    """

    def forward(  # type: ignore[override]
        self, input: Tensor | PackedSequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]:
        """As `nn.LSTM`: (T, N, in) -> (T, N, out), (h, c); the output is not quantised."""
        if self.weight_bits == self.activation_bits == FULL:
            return nn.LSTM.forward(self, cast(Any, input), hx)
        output, end = self._all(self._checked(input), hx, 2)
        return output, cast(tuple[Tensor, Tensor], end)

    def _cell(self, gates: Tensor, state: State) -> State:
        i, f, g, o = gates.chunk(4, 1)
        cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell


class QuantizedRNN(_QuantizedRecurrence, nn.RNN):
    """`nn.RNN` whose products are of quantised weights with quantised inputs and hidden vectors.

    `h_t = tanh(W_q q(x_t) + b + U_q q(h_{t-1}) + b')`, or with a ReLU (of which q cuts what is above 1). The rest is as
    in `QuantizedLSTM`; 32 bits for both is `nn.RNN` itself.

    Args:
        weight_bits, activation_bits: 1 to 16, or 32 for full precision.
        scheme: `"linear"` or `"log"` levels.
        weight_range: `"max"` (of |W|, per matrix) or `"unit"`, [-1, 1].

    The other arguments are those of `nn.RNN`.

    Raises:
        ValueError: as for `QuantizedLSTM`.
    """

    def forward(  # type: ignore[override]
        self, input: Tensor | PackedSequence, hx: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """As `nn.RNN`: (T, N, in) -> (T, N, out), h; the output is not quantised."""
        if self.weight_bits == self.activation_bits == FULL:
            return nn.RNN.forward(self, cast(Any, input), hx)
        output, end = self._all(self._checked(input), None if hx is None else (hx,), 1)
        return output, end[0]

    def _cell(self, gates: Tensor, state: State) -> State:
        return (gates.tanh() if self.nonlinearity == "tanh" else gates.relu(),)
