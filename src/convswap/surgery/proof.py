"""Checking on the example that a swap keeps its promise of an exact start, place by place and for the whole network.

A place is checked in float64, on a window of its convolution's input: the unit is built from the convolution, and both
are run. The network is compared in its own precision, and in float64 where rounding alone may have changed it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import SurgeryError
from ..units.contract.geometry import Geometry, plain_conv
from ..units.contract.registry import UnitSpec
from ..units.contract.weight import WeightUnit
from .build import as_convolution, build_unit
from .compare import Outputs, in_output, largest_difference, outputs_of, precision_of, relative_difference, rounding
from .copying import copy_model
from .inputs import Inputs
from .modes import evaluating
from .plan import Replacement
from .sites import padding_before

_WINDOW = 8  # pixels of the map, at least: enough for several outputs, at little cost


def prove_places(
    model: nn.Module, places: Sequence[tuple[UnitSpec, Replacement, dict[str, Any]]], inputs: Inputs
) -> Outputs:
    """Run the given model once and check every place whose row says "exact". Returns the model's outputs.

    Places whose unit takes over a BatchNorm are left to the comparison of the networks.

    Args:
        model: the given model.
        places: of each place the unit, the row of the plan, and the unit's options.
        inputs: the example.

    Raises:
        SurgeryError: a unit declares an exact start but computes something else.
    """
    seen: dict[str, Tensor] = {}
    hooks = []

    def note(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            given = args[0] if args else kwargs.get("input")
            if isinstance(given, Tensor) and path not in seen and given.numel() and not given.is_meta:
                padding = padding_before(module)
                seen[path] = _window(module, given if padding is None else padding.pad(given))

        return hook

    for _, row, _ in places:
        norms = any(isinstance(model.get_submodule(path), _BatchNorm) for path in row.absorbed)
        if row.start == "exact" and not norms:
            place = model.get_submodule(row.path)
            hooks.append(place.register_forward_pre_hook(note(row.path), with_kwargs=True))
    try:
        with evaluating(model):
            outputs = outputs_of(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    with _drawing_apart(inputs), torch.no_grad():
        for spec, row, options in places:
            if row.path in seen:
                _prove(spec, model.get_submodule(row.path), row, options, seen[row.path])
    return outputs


def _prove(spec: UnitSpec, module: nn.Module, row: Replacement, options: dict[str, Any], x: Tensor) -> None:
    source = as_convolution(module)
    bias = None if source.bias is None else source.bias.double()
    weight = source.weight.double()
    conv = plain_conv(Geometry.of(source), weight, bias, like=weight)
    unit = build_unit(spec, conv, "warm", options).double().eval()
    expected, found = _compared(conv, unit, x)
    if expected.shape != found.shape:
        return  # the shapes of the whole pass are compared later, with a better message
    difference = relative_difference({"": expected}, {"": found})
    if difference > rounding(torch.float64):
        raise SurgeryError(
            f"unit {spec.name!r} declares an exact start, but at {row.path or 'the model'} its output differs from the "
            f'convolution\'s by {difference:.1e} (relative, float64); register it with warm_start="approximate"'
        )


def _compared(conv: nn.Conv2d, unit: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """What tells whether two modules are one function: their outputs, or all that a weight unit's output follows from.

    A weight unit that leaves the forward to its base is a convolution with its effective weight and bias.
    """
    if not isinstance(unit, WeightUnit) or type(unit).forward is not WeightUnit.forward:
        return conv(x), unit(x)
    none = x.new_zeros(0)
    held = ((conv.weight, conv.bias), (unit.effective_weight(), unit.bias))
    expected, found = (torch.cat([w.flatten(), none if b is None else b]) for w, b in held)
    return expected, found


def _window(module: nn.Module, given: Tensor) -> Tensor:
    """The middle of one image's map in float64. A constant map would prove nothing, so noise replaces it."""
    shape = Geometry.of(module)
    x = (given[:1] if given.dim() == 4 else given.unsqueeze(0)).detach()
    for dim in (2, 3):
        kernel, dilation, stride = (pair[dim - 2] for pair in (shape.kernel_size, shape.dilation, shape.stride))
        size = min(x.shape[dim], max(_WINDOW, dilation * (kernel - 1) + 1 + 3 * stride))
        x = x.narrow(dim, (x.shape[dim] - size) // 2, size)
    x = x.double()
    low, high = x.aminmax()
    if not x.isfinite().all() or low == high:
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype).to(x.device)
        x = noise.abs() if low >= 0 else noise
    return x.clone()


@contextmanager
def _drawing_apart(inputs: Inputs) -> Any:
    """Keep the random generators as they are: building a unit draws numbers, and a proof must not change them."""
    first = inputs.first
    with torch.random.fork_rng(devices=[first.device.index or 0] if first.is_cuda else []):
        yield


def prove_network(model: nn.Module, swap: Callable[[nn.Module], nn.Module], inputs: Inputs, unit: str) -> None:
    """Raise unless a network in which every unit starts exactly gives the same output as before, up to rounding.

    Args:
        model: the given model, without the units. It stays as it is.
        swap: puts the units into a copy, which it may edit.
        inputs: the example.
        unit: registry name, or several, for the error.

    Raises:
        SurgeryError: the outputs differ in float64, or in the model's own precision where it does not run in float64.
    """
    for dtype in dict.fromkeys((torch.float64, precision_of(model, inputs))):
        plain, x = copy_model(model).to(dtype).eval(), inputs.cast(dtype)
        try:
            before = outputs_of(plain, x)
        except Exception:
            if dtype != torch.float64:
                raise
            continue  # such a host computes in a precision of its own: the comparison in that precision counts
        with _drawing_apart(inputs):
            difference, path = largest_difference(before, outputs_of(swap(plain).eval(), x))
        break
    if difference > rounding(dtype):
        raise SurgeryError(
            f"unit {unit!r} declares an exact start at every place of the plan, but the network's output differs by "
            f"{difference:.1e}{in_output(path)} (relative, {str(dtype).removeprefix('torch.')}); something uses a "
            "replaced convolution otherwise than by calling it, or the network draws random numbers: leave places out "
            'by where=, or register the unit with warm_start="approximate"'
        )
