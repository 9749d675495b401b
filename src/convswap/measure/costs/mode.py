"""Counts what runs: a dispatch mode that asks a formula about every operator and refuses operators without one."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

from . import formulas, layers  # noqa: F401  # layers fills the table of formulas
from .counts import Call, CostError, Counts, formula_of

_BINARY = ("convswap::binary_conv2d", "convswap::binary_conv2d_sign")
# Queries about tensors, not operations on them.
_QUESTIONS = frozenset(
    f"aten::{name}"
    for question in ("size", "stride", "storage_offset", "numel", "is_contiguous")
    for name in (question, f"sym_{question}")
) | {"aten::is_strides_like_format", "aten::is_non_overlapping_and_dense", "aten::dim", "prim::layout", "prim::device"}


class CountingMode(TorchDispatchMode):
    """Within this context every operator is counted, by operator and by module.

    The formulas of `register_cost` extend torch's table of FLOP formulas (`torch.utils.flop_counter`), which counts
    two for each multiply-accumulate.

    Attributes:
        total: all counts.
        operators: counts by operator name.
        modules: counts by path within the model, inner modules included in outer ones; forward passes only.
    """

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.tracker = ModuleTracker()
        self.total = Counts()
        self.operators: dict[str, Counts] = defaultdict(Counts)
        self.modules: dict[str, Counts] = defaultdict(Counts)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            raise CostError(self._refusal(str(func)))
        name = func.name().partition(".")[0]
        if name in _QUESTIONS:
            return NotImplemented
        formula, known = formula_of(func), func._overloadpacket in flop_registry
        view = _is_view(func)
        if formula is None and not known and not view:
            with self:
                result = func.decompose(*args, **kwargs)
                if result is not NotImplemented:
                    return result
            raise CostError(self._refusal(name))
        result = func(*args, **kwargs)
        if not view:
            call = Call(tuple(args), kwargs, result)
            counts = Counts() if formula is None else formula(call)
            if known and not counts.macs:  # a formula that gives the products, too, corrects torch's
                counts += _products(func, call, name)
            self._add(name, counts, call)
        return result

    def _add(self, name: str, counts: Counts, call: Call) -> None:
        backward = self.tracker.is_bw
        moved = 0 if name in formulas.NOTHING else call.bytes_moved
        written = sum(tensor.numel() for tensor in call.outputs[:1]) if counts.macs and not backward else 0
        counts += Counts(activations=written, bytes_moved=moved)
        self.total += counts
        self.operators[name] += counts
        if not backward:
            for parent in self.tracker.parents:
                if (path := self._path(parent)) is not None:
                    self.modules[path] += counts

    def _path(self, tracked: str) -> str | None:
        """The path within the model of a module as the tracker names it, which begins with the model's class."""
        head, _, path = tracked.partition(".")
        return path if head == type(self.model).__name__ else None

    def _refusal(self, operator: str) -> str:
        parents = self.tracker.parents - {"Global"}
        inner = max(parents, key=lambda name: name.count("."), default=type(self.model).__name__)
        path, module = self._path(inner), self.model
        if path:
            module = self.model.get_submodule(path)
        where = f"module {path!r} ({type(module).__name__})" if path else f"the model itself ({inner})"
        phase = "the backward pass of " if self.tracker.is_bw else ""
        return (
            f"operator {operator} in {phase}{where} has no cost formula and is not declared free; "
            f"give its cost: @convswap.measure.register_cost({operator!r})"
        )


def _is_view(func: torch._ops.OpOverload) -> bool:
    """Does the operator only return a view of the same memory?"""
    aliases = [value.alias_info for value in func._schema.returns]
    return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)


def _products(func: torch._ops.OpOverload, call: Call, name: str) -> Counts:
    macs = flop_registry[func._overloadpacket](*call.args, **call.kwargs, out_val=call.result) // 2
    if name in _BINARY:
        return Counts(macs_binary=macs)
    factor = next((tensor for tensor in call.inputs), None)
    if factor is None or factor.is_floating_point():
        return Counts(macs_float=macs)
    return Counts(macs_float=4 * macs) if factor.is_complex() else Counts(macs_int8=macs)
