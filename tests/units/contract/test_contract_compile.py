"""`torch.compile` without a graph break and `torch.export` with a free batch size."""

from __future__ import annotations

import pytest
import torch
from contract_cases import CASES, Case, assert_same_gradients, difference, each_unit, gradients, image


@each_unit
def test_compiles_whole_and_equals_eager(case: Case) -> None:
    torch._dynamo.reset()
    unit = case.home(dtype=torch.float64).train(not case.stochastic)
    compiled = torch.compile(unit, fullgraph=True, backend="aot_eager")
    x = image(unit)
    assert difference(compiled(x), unit(x)) < 1e-12
    assert_same_gradients(gradients(unit, lambda: compiled(x)), gradients(unit, lambda: unit(x)), 1e-11)


@pytest.mark.parametrize("case", [case for case in CASES if case.stochastic], ids=str)
def test_training_compiles_whole_where_draws_are_random(case: Case) -> None:
    torch._dynamo.reset()
    unit = case.home().train()
    compiled = torch.compile(unit, fullgraph=True, backend="aot_eager")
    x = image(unit)
    outputs = []
    for _ in range(20):
        outputs.append(compiled(x))
        outputs[-1].sum().backward()
    assert any(not torch.equal(outputs[0], other) for other in outputs[1:]), "compiling froze the draw"


@each_unit
@pytest.mark.parametrize("batch", ["static", "dynamic"])
def test_exports_and_equals_eager(case: Case, batch: str) -> None:
    unit = case.home(dtype=torch.float64).eval()
    x = image(unit, batch=3)
    dynamic = ({0: torch.export.Dim.DYNAMIC},) if batch == "dynamic" else None
    exported = torch.export.export(unit, (x,), dynamic_shapes=dynamic, strict=False).module()
    for size in (3,) if batch == "static" else (3, 1, 5):
        x = image(unit, batch=size)
        assert difference(exported(x), unit(x)) < 1e-12
