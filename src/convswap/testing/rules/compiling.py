"""`torch.compile` without a graph break, `torch.export` with a free batch size, and `torch.jit.trace`."""

from __future__ import annotations

import torch

from ..aids import demand_close, demand_same_gradients, gradients, image, lived_in
from ..case import Case
from ..rule import demand, rule


@rule()
def compiles_whole_and_equals_eager(case: Case) -> None:
    """`torch.compile(fullgraph=True)` must succeed and give the eager outputs and gradients."""
    torch._dynamo.reset()
    unit = case.home(dtype=torch.float64).train(not case.stochastic)
    compiled = torch.compile(unit, fullgraph=True, backend="aot_eager")
    x = image(unit)
    demand_close(compiled(x), unit(x), 1e-12, "the compiled output")
    expected = gradients(unit, lambda: unit(x))
    demand_same_gradients(gradients(unit, lambda: compiled(x)), expected, 1e-11, "compiled")


@rule(only=lambda case: case.stochastic)
def compiled_training_still_draws(case: Case) -> None:
    """A compiled stochastic unit must draw anew in every training pass."""
    torch._dynamo.reset()
    unit = case.home().train()
    compiled = torch.compile(unit, fullgraph=True, backend="aot_eager")
    x = image(unit)
    outputs = []
    for _ in range(20):
        outputs.append(compiled(x))
        outputs[-1].sum().backward()
    demand(any(not torch.equal(outputs[0], other) for other in outputs[1:]), "compiling froze the draw")


@rule()
def exports_and_equals_eager(case: Case) -> None:
    """`torch.export` must succeed with a fixed and with a free batch size and give the eager outputs."""
    for batch in ("static", "dynamic"):
        unit = case.home(dtype=torch.float64).eval()
        x = image(unit, batch=3)
        dynamic = ({0: torch.export.Dim.DYNAMIC},) if batch == "dynamic" else None
        exported = torch.export.export(unit, (x,), dynamic_shapes=dynamic, strict=False).module()
        for size in (3,) if batch == "static" else (3, 1, 5):
            x = image(unit, batch=size)
            demand_close(exported(x), unit(x), 1e-12, f"the exported output ({batch} batch, {size} images)")


@rule()
def jit_trace_gives_the_same_outputs(case: Case) -> None:
    """`torch.jit.trace` must record one graph with and without gradients, fused and not, with the eager outputs."""
    unit = lived_in(case, dtype=torch.float64)
    for name, module in (("unit", unit), ("fused form", unit.fuse())):
        x = image(unit)
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                traced = torch.jit.trace(module, x)  # its own check traces again, without gradients
                other = image(unit, batch=3)
                demand_close(traced(other), module(other), 1e-10, f"the traced {name}'s output")
