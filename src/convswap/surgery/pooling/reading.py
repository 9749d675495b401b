"""Where a model pools by the maximum, what stands before each pooling, and why some cannot be replaced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._python_dispatch import TorchDispatchMode

from ...errors import FusionError, UsageError
from ..copying import copy_model
from ..graph import BATCH_NORM, Reader, module_of
from ..inputs import Inputs
from ..neighbours import RELUS
from ..observe import follow_calls, run_watched
from ..sites import held_elsewhere, is_plain, is_unit, outside_the_tree, why_not_plain

_aten = torch.ops.aten
_POOL = _aten.max_pool2d.default
_RECTIFIERS = (*RELUS, _aten.relu6.default, _aten.relu6_.default)
_LIMITS = (_aten.hardtanh.default, _aten.hardtanh_.default)
_DROPOUTS = (_aten.dropout.default, _aten.dropout_.default, _aten.feature_dropout.default)
# What treats each pixel for itself: whether pixels are left out before or after makes no difference.
_BY_PIXEL = (
    *_RECTIFIERS,
    *_LIMITS,
    *_DROPOUTS,
    BATCH_NORM,
    _aten.leaky_relu.default,
    _aten.leaky_relu_.default,
    _aten.elu.default,
    _aten.elu_.default,
    _aten.gelu.default,
    _aten.silu.default,
    _aten.silu_.default,
    _aten.hardswish.default,
    _aten.hardswish_.default,
    _aten.clone.default,
    _aten.contiguous.default,
)


@dataclass(frozen=True)
class Pool:
    """One max-pooling module.

    Attributes:
        path: its module path.
        module: the module.
        kernel, stride, padding, dilation: rows and columns.
        inputs: the map that it reads on the example, None if the example does not reach it exactly once.
        rectified: whether it reads the output of a ReLU.
        conv: the path of the convolution before it, with nothing between that mixes pixels, or "".
        reason: why it cannot be replaced, or "".
        conv_reason: why no convolution can take over its stride, or "".
    """

    path: str
    module: nn.MaxPool2d
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    inputs: Tensor | None = None
    rectified: bool = False
    conv: str = ""
    reason: str = ""
    conv_reason: str = ""

    def describe(self) -> str:
        """Channels and geometry, for a plan: `64 channels 3x3 s2 p1`."""
        channels = "" if self.inputs is None else f"{self.inputs.shape[1]} channels "
        text = f"{channels}{_text(self.kernel)} s{_text(self.stride, short=True)}"
        text += f" p{_text(self.padding, short=True)}" if any(self.padding) else ""
        return text + (" ceil" if self.module.ceil_mode else "")


def pair(value: Any) -> tuple[int, int]:
    """Rows and columns of a geometry that may be given as one number."""
    return (value, value) if isinstance(value, int) else tuple(value)


def _text(value: tuple[int, int], *, short: bool = False) -> str:
    return str(value[0]) if short and value[0] == value[1] else f"{value[0]}x{value[1]}"


def read_pools(model: nn.Module, inputs: Inputs) -> tuple[list[Pool], int]:
    """Every `nn.MaxPool2d` of a model, with what the example and the graph say, and the number of other max-poolings.

    Raises:
        UsageError: `torch.export` cannot read the model.
        SurgeryError: the model does not accept the example.
    """
    modules = dict(_max_pools(model))
    seen, functional = _watch(model, inputs, list(modules.values()))
    try:
        reader = Reader(copy_model(model, FusionError).eval(), inputs)
    except FusionError as error:
        raise UsageError(f"what stands before a pooling cannot be read: {error}") from error
    nodes: dict[str, Node] = {}
    for node in reader.program.graph.nodes:
        path = module_of(reader, node) if node.target is _POOL else None
        if path is not None:
            nodes[path] = node
    held = held_elsewhere(model)
    pools = []
    for path, module in modules.items():
        own = seen.get(id(module), [])
        reason = outside_the_tree(held[id(module)]) if id(module) in held else _why_not(module, own)
        if not reason and path not in nodes:
            reason = "the exported graph does not show it as one call of max_pool2d"
        pool = Pool(path, module, *_geometry(module), inputs=own[0] if len(own) == 1 else None, reason=reason)
        pools.append(pool if reason else replace(pool, **_before(reader, model, nodes[path])))
    return pools, functional


def _max_pools(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.MaxPool2d]]:
    for name, child in module._modules.items():
        place = f"{path}.{name}" if path else name
        if isinstance(child, nn.MaxPool2d):
            yield place, child
        elif child is not None and not is_unit(child):
            yield from _max_pools(child, place)


def _geometry(module: nn.MaxPool2d) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]:
    stride = module.kernel_size if module.stride is None else module.stride
    return pair(module.kernel_size), pair(stride), pair(module.padding), pair(module.dilation)


def _why_not(module: nn.MaxPool2d, maps: list[Tensor]) -> str:
    if type(module) is not nn.MaxPool2d or "forward" in module.__dict__:
        return f"it is a {type(module).__module__}.{type(module).__name__}, which may behave otherwise"
    if module.return_indices:
        return "its return_indices=True hands on the places of the maxima, which a convolution has not"
    if not maps:
        return "a pass over the example does not call it"
    if len(maps) > 1:
        return f"the example calls it {len(maps)} times, and one convolution would stand for all"
    return "" if maps[0].dim() == 4 else f"it reads a map without a batch, {tuple(maps[0].shape)}"


class _Watch(TorchDispatchMode):
    """Counts max-poolings that no `nn.MaxPool2d` calls."""

    def __init__(self, stack: list[nn.Module]) -> None:
        super().__init__()
        self.stack, self.functional = stack, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inside = any(isinstance(module, nn.MaxPool2d) for module in self.stack)
        if func is _aten.max_pool2d_with_indices.default and not inside:
            self.functional += 1
        return func(*args, **(kwargs or {}))


def _watch(model: nn.Module, inputs: Inputs, modules: list[nn.MaxPool2d]) -> tuple[dict[int, list[Tensor]], int]:
    """The maps that each of these modules reads, by its id, and the number of max-poolings by function calls."""
    seen: dict[int, list[Tensor]] = {}
    stack: list[nn.Module] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        seen.setdefault(id(module), []).append(args[0].detach())

    hooks = [module.register_forward_hook(note) for module in modules]

    def leave(module: nn.Module, output: Any) -> None:
        stack.pop()

    watch = _Watch(stack)
    with follow_calls(model, lambda module, _: stack.append(module), leave):
        run_watched(model, inputs, watch, hooks)
    return seen, watch.functional


def _before(reader: Reader, model: nn.Module, pool: Node) -> dict[str, Any]:
    """What the graph says of the operators before a pooling."""
    rectified = _is_rectified(pool.args[0])
    node = pool.args[0]
    while isinstance(node, Node) and node.op == "call_function":
        path = reader.convolution(node)
        if len(reader.readers(node)) > 1:
            return {"rectified": rectified, "conv_reason": "something else also reads what it pools"}
        if path is not None:
            return {"rectified": rectified, "conv": path, "conv_reason": _why_not_strided(reader, model, path)}
        if node.target not in _BY_PIXEL:
            name = str(getattr(node.target, "__name__", node.target)).split(".")[0].rstrip("_")
            return {"rectified": rectified, "conv_reason": f"it follows {name}, not a convolution"}
        node = node.args[0]
    return {"rectified": rectified, "conv_reason": "it reads the model's input"}


def _is_rectified(node: Any) -> bool:
    while isinstance(node, Node) and node.target in (*_DROPOUTS, _aten.clone.default, _aten.contiguous.default):
        node = node.args[0]
    if not isinstance(node, Node):
        return False
    limited = node.target in _LIMITS and len(node.args) > 1 and cast(float, node.args[1]) >= 0
    return node.target in _RECTIFIERS or limited


def _why_not_strided(reader: Reader, model: nn.Module, path: str) -> str:
    conv = cast(nn.Conv2d, model.get_submodule(path))
    if not is_plain(conv):
        return f"{path} is a {type(conv).__name__}, not a plain nn.Conv2d; replace the pooling before a swap"
    reason = why_not_plain(conv)
    if reason is not None:
        return f"{path}: {reason}"
    if conv.padding_mode != "zeros":
        return f"{path} pads by {conv.padding_mode}"
    weights = [node for node in reader.program.graph.nodes if reader.owner(node, "weight") == path]
    if any(len(reader.readers(node)) != 1 for node in weights):
        return f"{path} is called more than once"
    return ""
