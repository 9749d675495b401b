"""The cost of one operator call: the vector of counts, the call as a formula sees it, and the table of formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ...errors import ConvswapError, UsageError


class CostError(ConvswapError, RuntimeError):
    """An operator has no cost formula and is not declared free, so its cost is unknown."""


@dataclass(frozen=True)
class Counts:
    """Operations by kind, and what is moved. Counts add up with `+`.

    Attributes:
        macs_float: multiply-accumulates of convolutions and matrix products in floating point.
        macs_int8: multiply-accumulates of integers.
        macs_binary: multiply-accumulates of one-bit factors (a share of an XNOR and a popcount each).
        additions, multiplications, comparisons: single operations outside of those products.
        special: divisions, roots, exponentials, logarithms, trigonometric functions, random draws.
        bitwise: sign changes, absolute values, roundings, type conversions, selections, shifts, logic.
        fft: floating-point operations of Fourier transforms, 5 N log2 N for a complex one, half for a real one.
        activations: numbers that convolutions and matrix products write in the forward pass.
        bytes_moved: bytes each operator reads and writes, as if no cache kept anything and no operators were fused.
    """

    macs_float: int = 0
    macs_int8: int = 0
    macs_binary: int = 0
    additions: int = 0
    multiplications: int = 0
    comparisons: int = 0
    special: int = 0
    bitwise: int = 0
    fft: int = 0
    activations: int = 0
    bytes_moved: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all kinds: the number papers print."""
        return self.macs_float + self.macs_int8 + self.macs_binary

    @property
    def flops(self) -> int:
        """Floating-point operations of convolutions and matrix products: two for each multiply-accumulate."""
        return 2 * self.macs_float

    @property
    def ops(self) -> float:
        """The OPs of papers on binary networks (Bi-Real Net, arXiv:1808.00278): macs_float + macs_binary / 64.

        Their "FLOPs" are multiply-accumulates, and 64 binary ones fit a 64-bit word. Integer ones count in full.
        """
        return self.macs_float + self.macs_int8 + self.macs_binary / 64

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in _NAMES))

    def times(self, factor: int) -> Counts:
        """Every count times a whole number."""
        return Counts(*(getattr(self, name) * factor for name in _NAMES))

    def as_dict(self) -> dict[str, int]:
        """By name, for JSON."""
        return asdict(self)


_NAMES = tuple(field.name for field in fields(Counts))


@dataclass(frozen=True)
class Call:
    """One call of an operator, as a formula sees it: arguments and result, tensors among them."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any

    def __getitem__(self, index: int) -> Any:
        return self.args[index]

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """A positional argument, which may have come by name or not at all."""
        return self.args[index] if index < len(self.args) else self.kwargs.get(name, default)

    @property
    def inputs(self) -> list[Tensor]:
        """All tensors among the arguments, those in lists too."""
        return list(_tensors((*self.args, *self.kwargs.values())))

    @property
    def outputs(self) -> list[Tensor]:
        """All tensors of the result."""
        return list(_tensors((self.result,)))

    @property
    def read(self) -> int:
        """Size of the first tensor that is read."""
        return self.inputs[0].numel()

    @property
    def written(self) -> int:
        """Size of the first tensor that is written."""
        return self.outputs[0].numel()

    @property
    def bytes_moved(self) -> int:
        """Bytes of everything read and written; what `expand` repeats counts once."""
        return sum(_stored(tensor) for tensor in (*self.inputs, *self.outputs))


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _stored(tensor: Tensor) -> int:
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0 or size == 0)
    return math.prod(sizes) * tensor.element_size()


Formula = Callable[[Call], Counts]

_formulas: dict[str, Formula] = {}


def register_cost(*names: str) -> Callable[[Formula], Formula]:
    """Decorator: the function gives the cost of a call of these operators.

    The function returns `Counts` without `activations` and `bytes_moved`, which are counted for every operator.
    `torch.utils.flop_counter` already knows the multiply-accumulates of some operators. Counts given here override
    them. An operator known only there costs those multiply-accumulates alone.

    Args:
        names: of operators, `"namespace::operator"`; one name stands for all overloads and the in-place form.

    Raises:
        UsageError: a name is not of that form, or has a formula already.

    >>> @register_cost("mine::blend")
    ... def blend(call):
    ...     return Counts(multiplications=2 * call.written, additions=call.written)
    >>> unregister_cost("mine::blend")
    """
    for name in names:
        if name.count("::") != 1:
            raise UsageError(f"operator {name!r} is not allowed; give 'namespace::operator'")
        if name in _formulas:
            raise UsageError(f"operator {name!r} already has a cost formula; remove it with unregister_cost first")

    def add(formula: Formula) -> Formula:
        _formulas.update(dict.fromkeys(names, formula))
        return formula

    return add


def unregister_cost(*names: str) -> None:
    """Forget the formulas of these operators. Names without a formula are ignored."""
    for name in names:
        _formulas.pop(name, None)


def formula_of(operator: torch._ops.OpOverload) -> Formula | None:
    """The formula of an operator, in place or not, or None."""
    name = operator.name().partition(".")[0]
    found = _formulas.get(name)
    if found is None and name.endswith("_") and not name.endswith("__"):
        found = _formulas.get(name[:-1])
    return found
