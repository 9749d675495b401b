"""One foreign network, six questions: `python -m benchmarks.hosts.examine NAME` prints the answers as JSON.

Every claim of convswap (an exact start, a proven fusion) is checked again here, in float64 on three inputs, against the
outputs that the given network had before the surgery.
"""

from __future__ import annotations

import copy
import io
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import convswap
from benchmarks.common import git_commit
from benchmarks.hosts.randomize import as_if_trained, randomize
from benchmarks.hosts.table import HOSTS, Host, find_host
from benchmarks.hosts.values import call, cast, difference, leaves, outputs
from convswap.errors import ConvswapError, described, first_line
from convswap.surgery.sites import is_unit

EXACT, STRUCTURED = "ic", "ghost"
LIMIT = {torch.float64: 1e-9, torch.float32: 1e-4}
INPUTS = 3
Outputs = list[list[tuple[str, Tensor]]]
Cell = dict[str, Any]


@dataclass
class Case:
    """A host in evaluation mode with random statistics, inputs, and the outputs that it gave before any surgery."""

    host: Host
    dtype: torch.dtype
    model: nn.Module
    inputs: list[Any]
    given: Outputs = field(default_factory=list)
    swapped: dict[str, nn.Module] = field(default_factory=dict)
    fused: dict[str, nn.Module] = field(default_factory=dict)

    def outputs(self, model: nn.Module) -> Outputs:
        """What a model gives for the inputs."""
        return [outputs(model, x) for x in self.inputs]

    def cell(self, source: nn.Module, expected: Outputs, found: Outputs, **rest: Any) -> Cell:
        """Right within rounding, or wrong. A source that amplifies rounding is held to its own."""
        worst = max(map(difference, expected, found))
        right = worst <= LIMIT[self.dtype]
        if not right:
            rest["rounding"] = max(map(difference, expected, self.outputs(_nudged(source))))
            right = worst <= 3 * rest["rounding"] < 1e3 * LIMIT[self.dtype]
        state = "ok" if right else "wrong"
        return {"state": state, "difference": worst if worst != float("inf") else "other shapes or NaN", **rest}


def build(host: Host, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The network in evaluation mode, its statistics drawn at random."""
    torch.manual_seed(seed)
    return randomize(host.build().to(dtype).eval(), cast(host.draw(0), dtype), seed)


def open_case(host: Host) -> Case:
    """Build the host in float64, or in float32 where it runs in no other precision.

    Raises:
        ValueError: the network gives nothing to compare, or does not react to its input: every check would be blind.
    """
    for dtype in (torch.float64, torch.float32):
        try:
            inputs = [cast(host.draw(seed), dtype) for seed in range(INPUTS)]
            case = Case(host, dtype, build(host, dtype=dtype), inputs)
            case.given = case.outputs(case.model)
        except RuntimeError:
            if dtype == torch.float32:
                raise
            continue
        break
    if not any(t.numel() for _, t in case.given[0]):
        raise ValueError("the network's output holds no numbers")
    if difference(case.given[0], case.given[1]) < 1e-3:
        raise ValueError("the network's output hardly depends on its input")
    if difference(case.given[0], outputs(case.model, case.inputs[0])):
        raise ValueError("the network gives other numbers in a second pass")
    return case


def _nudged(model: nn.Module) -> nn.Module:
    """The network, each of its parameters changed by its last digit or not at all."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        digit = torch.randint(-1, 2, parameter.shape, generator=generator) * torch.finfo(parameter.dtype).eps
        parameter.data *= 1 + digit.to(parameter.dtype)
    return model


def plan_cell(case: Case) -> Cell:
    """How many convolutions would be replaced, of how many, and whether each of them is accounted for."""
    plan = convswap.plan_swap(case.model, EXACT, where="all", example_input=case.inputs[0])
    convolutions = {id(m) for m in case.model.modules() if isinstance(m, nn.Conv2d)}
    listed = {id(case.model.get_submodule(row.path)) for row in (*plan.replacements, *plan.skipped)}
    lost = len(convolutions - listed)
    counts = {"replaced": len(plan.replacements), "skipped": len(plan.skipped), "convolutions": len(convolutions)}
    return {"state": "wrong" if lost else "ok", **counts, **({"lost": lost} if lost else {})}


def swap_cell(case: Case) -> Cell:
    """An exact swap against the outputs before it. The units matter, and the given network is as it was."""
    plan = convswap.plan_swap(case.model, EXACT, example_input=case.inputs[0])
    changed = plan.apply()
    cell = case.cell(case.model, case.given, case.outputs(changed), replaced=len(plan.replacements))
    if any(row.start != "exact" for row in plan.replacements):
        return cell | {"state": "failed", "reason": f"{EXACT} does not start exactly everywhere"}
    if difference(case.given[0], outputs(case.model, case.inputs[0])):
        return cell | {"state": "wrong", "reason": "the given network was changed"}
    trained = as_if_trained(changed, case.inputs[0])
    cell["control"] = difference(case.given[0], outputs(trained, case.inputs[0]))
    case.swapped[EXACT] = trained
    if cell["control"] < 100 * LIMIT[case.dtype]:
        return cell | {"state": "blind", "reason": "the output does not depend on the units"}
    return cell


def fuse_cell(case: Case) -> Cell:
    """The fused forms of the given network, of one with trained units, and of one with a structured unit."""
    refused: Cell = {}
    try:
        structured = convswap.swap(case.model, STRUCTURED, example_input=case.inputs[0]).eval()
        case.swapped[STRUCTURED] = as_if_trained(structured, case.inputs[0])
    except ConvswapError as error:
        refused = {"refused": {STRUCTURED: str(error)[:500]}}
    sources = {"plain": case.model, **case.swapped}
    cells: dict[str, Cell] = {}
    for name, source in sources.items():
        plan = convswap.plan_fuse(source, case.inputs[0])
        fused = case.fused[name] = plan.apply()
        counts = {"units": plan.count("unit"), "folded": plan.count("fold"), "norms left": norms(fused)}
        cells[name] = case.cell(source, case.outputs(source), case.outputs(fused), claimed=plan.difference, **counts)
        cells[name]["left"] = [f"{path}: {first_line(ValueError(reason))}" for path, reason in plan.skipped[:2]]
    order = ("wrong", "ok")
    worst = min(cells.values(), key=lambda cell: (order.index(cell["state"]), -_number(cell["difference"])))
    folded = {key: worst[key] for key in ("state", "difference")}
    return (
        folded
        | {"folded": cells["plain"]["folded"], "norms left": cells["plain"]["norms left"], "by source": cells}
        | refused
    )


def norms(model: nn.Module) -> int:
    """How many modules normalise by running statistics."""
    return sum(isinstance(getattr(m, "running_var", None), Tensor) for m in model.modules())


def train_cell(case: Case) -> Cell:
    """One step of SGD in float32, in training mode: every unit gets a gradient whose convolution does."""
    example = cast(case.host.draw(7, train=True), torch.float32)
    plain = copy.deepcopy(case.model).float().train()
    loss_of(call(plain, example)).backward()
    cells = {}
    for name, swapped in case.swapped.items():
        model = copy.deepcopy(swapped).float().train()
        units = {path: module for path, module in model.named_modules() if is_unit(module)}
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        loss = loss_of(call(model, example))
        loss.backward()
        still = [path for path, unit in units.items() if not _has_gradient(unit)]
        lost = [path for path in still if _has_gradient(plain.get_submodule(path))]
        optimizer.step()
        right = not lost and bool(loss.isfinite()) and all(bool(p.isfinite().all()) for p in model.parameters())
        cells[name] = {"state": "ok" if right else "wrong", "loss": loss.item()}
        cells[name] |= {"moved": len(units) - len(still), "units": len(units)}
        if lost:
            cells[name]["reason"] = f"{lost[0]} got no gradient"
    if not cells:
        return {"state": "not applicable", "reason": "nothing was swapped"}
    worst = min(cells.values(), key=lambda cell: ("wrong", "ok").index(cell["state"]))
    counts = {key: sum(cell[key] for cell in cells.values()) for key in ("moved", "units")}
    return worst | counts | {"by unit": cells}


def _has_gradient(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def loss_of(output: Any) -> Tensor:
    """The network's own loss where it gives one, else the mean of all that depends on the parameters, weighted.

    The weights are drawn. Without them a normalised output would give the same loss whatever the parameters are.
    """
    found = [(path, t) for path, t in leaves(output) if t.requires_grad]
    losses = [t for path, t in found if "loss" in path and t.numel() == 1]
    generator = torch.Generator().manual_seed(0)
    weighted = (t.abs().float() * torch.rand(t.shape, generator=generator) for _, t in found)
    terms = losses or [t.mean() for t in weighted]
    if not terms:
        raise ValueError("nothing in the output depends on the parameters")
    return torch.stack([term.reshape(()).float() for term in terms]).sum()


def state_cell(case: Case) -> Cell:
    """The state of trained units, written, read and loaded strictly into a network built and swapped anew."""
    changed = case.swapped.get(EXACT)
    if changed is None:
        return {"state": "not applicable", "reason": "nothing was swapped"}
    file = io.BytesIO()
    torch.save(changed.state_dict(), file)
    file.seek(0)
    fresh = convswap.swap(build(case.host, seed=1, dtype=case.dtype), EXACT, example_input=case.inputs[0])
    fresh.train()  # LeViT keeps tables computed from its parameters until training mode drops them
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    return case.cell(changed, case.outputs(changed), case.outputs(fresh.eval()), tensors=len(changed.state_dict()))


def export_cell(case: Case) -> Cell:
    """`torch.export` of the fused network with units, run on an input that it was not exported with."""
    try:
        exported(case.model, case.inputs[0])
    except Exception as error:
        return {"state": "not applicable", "reason": f"torch.export cannot read the host itself: {described(error)}"}
    fused = case.fused.get(EXACT) or case.fused.get("plain") or convswap.fuse(case.model, case.inputs[0])
    program = exported(fused, case.inputs[0])
    return case.cell(fused, case.outputs(fused), case.outputs(program), nodes=len(program.graph.nodes))


def exported(model: nn.Module, example: Any) -> Any:
    """The exported program as a module."""
    given = cast(example, None)
    arguments = given if isinstance(given, tuple) else () if isinstance(given, dict) else (given,)
    with torch.no_grad():
        program = torch.export.export(model, arguments, given if isinstance(given, dict) else None, strict=False)
    return program.module()


COLUMNS: dict[str, Callable[[Case], Cell]] = {
    "plan": plan_cell,
    "swap": swap_cell,
    "fuse": fuse_cell,
    "train": train_cell,
    "state": state_cell,
    "export": export_cell,
}


def examine(host: Host) -> Iterator[dict[str, Any]]:
    """The record of a host, handed out again after every column."""
    start = time.perf_counter()
    record: dict[str, Any] = {"name": host.name, "package": host.package, "commit": git_commit()}
    try:
        case = open_case(host)
    except Exception as error:
        yield record | {"broken": described(error)}
        return
    record |= {
        "precision": str(case.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in case.model.parameters()),
        "norms": norms(case.model),
    }
    for column, question in COLUMNS.items():
        try:
            began = time.process_time()
            record[column] = question(case)
            record[column]["seconds"] = round(time.process_time() - began, 1)
        except ConvswapError as error:
            record[column] = {"state": "refused", "reason": str(error)[:500]}
        except Exception as error:
            record[column] = {"state": "failed", "reason": described(error)[:500]}
        record["seconds"] = round(time.perf_counter() - start, 1)
        yield record


def _number(value: float | str) -> float:
    return value if isinstance(value, float) else float("inf")


def main() -> None:
    """Examine the named hosts and print a line of JSON after each column."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for host in [find_host(name) for name in sys.argv[1:]] or HOSTS:
        for record in examine(host):
            print(json.dumps(record, default=str), flush=True)


if __name__ == "__main__":
    main()
