"""How data flows through a unit, read off the program that `torch.export` makes of it.

Every box is a module of the unit, or operators of its `forward` itself. Operators that only rearrange memory are left
out, and so is whatever depends on no input; the parameters that a box uses by such a way are named in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from convswap.units import Geometry, Place, UnitSpec

CHANNELS, SIDE = 64, 32
LIMIT = 18
"""Boxes a picture may have; modules stay closed where opening them would take more."""

_SILENT = frozenset(
    (
        *("alias", "clone", "contiguous", "detach", "expand", "flatten", "getitem", "permute", "reshape", "select"),
        *("squeeze", "t", "to", "transpose", "unflatten", "unsqueeze", "view", "view_as", "_assert_tensor_metadata"),
    )
)
_OF_SHAPE_ONLY = frozenset(
    ["empty_like", "full_like", "new_empty", "new_full", "new_ones", "new_zeros", "ones_like", "zeros_like"]
)


@dataclass
class Box:
    """One box of the picture.

    Attributes:
        title: a module's path, or the operators' names.
        note: a module's class and geometry.
        parameters: names of the unit's own parameters that operators use.
        shape: of the box's output, without the batch.
        after: boxes that this one reads.
        module: does it stand for a module of the unit?
    """

    title: str
    note: str = ""
    parameters: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    after: list[Box] = field(default_factory=list)
    module: bool = False


def example(spec: UnitSpec) -> tuple[nn.Module, torch.Tensor, str]:
    """The unit with its defaults in a usual place, an input for it, and the place in short.

    Raises:
        ValueError: the unit stands in none of the places tried.
    """
    cls: Any = spec.cls
    if spec.replaces != "convolution":
        first = spec.replaces == "stem"
        depth = 3 if spec.replaces == "stage" else 1
        place = Place(3 if first else CHANNELS, CHANNELS, 4 if first else 1, depth, spec.replaces, training=False)
        return cls.at(place), torch.randn(1, place.in_channels, SIDE, SIDE), place.describe()
    refused = []
    for groups in (1, CHANNELS):
        conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=groups).eval()
        why = cls.supports(conv)
        if why is None:
            return cls.fresh_like(conv), torch.randn(1, CHANNELS, SIDE, SIDE), Geometry.of(conv).describe()
        refused.append(why)
    raise ValueError(f"unit {spec.name!r} stands in no example place: {'; '.join(refused)}")


def data_flow(unit: nn.Module, image: torch.Tensor) -> list[Box]:
    """The boxes from `input` to `output` in an order in which each reads earlier ones only."""
    program = torch.export.export(unit.eval(), (image,))
    nodes, names = _input_dependent(program)
    opened: set[tuple[str, ...]] = {()}
    boxes = _boxes(program, unit, nodes, names, opened)
    while True:
        # The outermost modules first: a picture of the whole is worth more than one part in detail.
        for inner in sorted(_composite(nodes, opened), key=lambda path: (len(path), path)):
            finer = _boxes(program, unit, nodes, names, opened | {inner})
            if len(finer) <= LIMIT:
                opened.add(inner)
                boxes = finer
                break
        else:
            return boxes


def _input_dependent(program: torch.export.ExportedProgram) -> tuple[list[fx.Node], dict[fx.Node, tuple[str, ...]]]:
    """Nodes on a way from the input to the output, in order; and the parameters every other node is made of."""
    signature = program.graph_signature
    own = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    made_of: dict[fx.Node, tuple[str, ...]] = {}
    reached: dict[fx.Node, None] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in signature.user_inputs:
            reached[node] = None
        elif node.op == "placeholder":
            made_of[node] = (own[node.name],) if node.name in own else ()
        elif operator_name(node) not in _OF_SHAPE_ONLY and any(n in reached for n in node.all_input_nodes):
            reached[node] = None
        else:
            parts = itertools.chain.from_iterable(made_of.get(previous, ()) for previous in node.all_input_nodes)
            made_of[node] = tuple(dict.fromkeys(parts))
    needed: set[fx.Node] = set()
    for node in reversed(reached):
        if node.op == "output" or any(user in needed for user in node.users):
            needed.add(node)
    return [node for node in reached if node in needed], made_of


def _stack(node: fx.Node) -> tuple[str, ...]:
    """The calls of submodules a node lies in, outermost first; the second call of one module is another call."""
    return tuple(node.meta.get("nn_module_stack", {}))[1:]


def _path(node: fx.Node, depth: int) -> str:
    """The path in the unit of the module whose call encloses a node at a depth."""
    path: str = list(node.meta["nn_module_stack"].values())[depth][0]
    return path.removeprefix("L['self'].")


def _composite(nodes: Iterable[fx.Node], opened: set[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Closed modules within opened ones that hold others in their turn."""
    stacks = {_stack(node) for node in nodes}
    calls = {stack[:depth] for stack in stacks for depth in range(1, len(stack))}
    return [call for call in calls if call not in opened and call[:-1] in opened]


def _boxes(
    program: torch.export.ExportedProgram,
    unit: nn.Module,
    nodes: list[fx.Node],
    made_of: dict[fx.Node, tuple[str, ...]],
    opened: set[tuple[str, ...]],
) -> list[Box]:
    """One box for every closed module call, and for every operator outside of these."""
    by_call: dict[tuple[str, ...], Box] = {}
    box_of: dict[fx.Node, Box] = {}
    boxes: list[Box] = []
    for node in nodes:
        inputs = [box_of[previous] for previous in node.all_input_nodes if previous in box_of]
        call = _closed_call(_stack(node), opened)
        if call is None and operator_name(node) in _SILENT and all(box is inputs[0] for box in inputs):
            box_of[node] = inputs[0]
            continue
        box = by_call.get(call) if call is not None else None
        if box is None:
            box = _new_box(program, unit, node, call)
            boxes.append(box)
            if call is not None:
                by_call[call] = box
        box_of[node] = box
        if call is None:
            used = itertools.chain.from_iterable(made_of.get(previous, ()) for previous in node.all_input_nodes)
            box.parameters = tuple(dict.fromkeys((*box.parameters, *used)))
        box.after += [previous for previous in inputs if previous is not box and previous not in box.after]
        box.shape = _shape(node) or box.shape
    return _joined(boxes)


def _closed_call(stack: tuple[str, ...], opened: set[tuple[str, ...]]) -> tuple[str, ...] | None:
    """The outermost call that is not opened; a call that holds no other is never opened."""
    return next((stack[:depth] for depth in range(1, len(stack) + 1) if stack[:depth] not in opened), None)


def _new_box(
    program: torch.export.ExportedProgram, unit: nn.Module, node: fx.Node, call: tuple[str, ...] | None
) -> Box:
    if node.op == "placeholder":
        return Box("input")
    if node.op == "output":
        return Box("output")
    if call is None:
        return Box(" → ".join(_operators(program, node)))
    path = _path(node, len(call))
    return Box(path, describe(unit.get_submodule(path)), module=True)


def operator_name(node: fx.Node) -> str:
    """The operator a node calls: `conv2d` for `aten.conv2d.default`, `relu` for the `relu_` that works in place."""
    target: Any = node.target
    packet = getattr(target, "overloadpacket", target)
    return str(getattr(packet, "__name__", packet)).rpartition(".")[2].removesuffix("_")


def _operators(program: torch.export.ExportedProgram, node: fx.Node) -> list[str]:
    """The operator's name, or of a region with a precision of its own the names of what runs in it."""
    inner = [arg for arg in node.args if isinstance(arg, fx.Node) and arg.op == "get_attr"]
    if not inner:
        return [operator_name(node)]
    graph: Any = getattr(program.graph_module, str(inner[0].target)).graph
    calls = (operator_name(n) for n in graph.nodes if n.op == "call_function")
    return list(dict.fromkeys(name for name in calls if name not in _SILENT))


def describe(module: nn.Module) -> str:
    """A module's class and, of a convolution, its geometry."""
    name = type(module).__name__
    if isinstance(module, nn.Conv2d):
        return f"{name} {Geometry.of(module).describe()}"
    return name


def _shape(node: fx.Node) -> tuple[int, ...]:
    """The shape without the batch; of several results the one they share."""
    value = node.all_input_nodes[0].meta["val"] if node.op == "output" else node.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    shapes = {tuple(int(n) for n in v.shape[1:]) for v in values if isinstance(v, torch.Tensor)}
    return shapes.pop() if len(shapes) == 1 else ()


def _joined(boxes: list[Box]) -> list[Box]:
    """Operators without parameters that follow one another and nothing else become one box."""
    readers: dict[int, int] = {}
    for box in boxes:
        for previous in box.after:
            readers[id(previous)] = readers.get(id(previous), 0) + 1
    kept: list[Box] = []
    replaced: dict[int, Box] = {}
    for box in boxes:
        box.after = [replaced.get(id(previous), previous) for previous in box.after]
        single = box.after[0] if len(box.after) == 1 else None
        plain = single is not None and _is_bare(box) and _is_bare(single) and readers[id(box.after[0])] == 1
        if plain and single is not None:
            single.title, single.shape = f"{single.title} → {box.title}", box.shape
            replaced[id(box)] = single
            readers[id(single)] = readers.get(id(box), 0)
        else:
            kept.append(box)
    return kept


def _is_bare(box: Box) -> bool:
    return not box.module and not box.parameters and box.title not in ("input", "output")
