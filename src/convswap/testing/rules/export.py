"""ONNX: the file that `torch.onnx.export` writes must compute the same in ONNX Runtime."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from ..aids import demand_close, image, lived_in
from ..case import Case
from ..rule import NotApplicable, rule

_NEEDED = ("onnx", "onnxscript", "onnxruntime")


class _Both(nn.Module):
    """The unit and its fused form on one input, so that one export checks both."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.in_channels = unit.in_channels
        self.unit, self.fused = unit, unit.fuse()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.unit(x), self.fused(x)


@rule()
def onnx_computes_the_same(case: Case) -> None:
    """`torch.onnx.export` must succeed, fused and not, and ONNX Runtime agree, or the row must say `onnx="why not"`."""
    if case.spec.onnx:
        raise NotApplicable(f"the unit's row declares: {case.spec.onnx}")
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise NotApplicable(f'{missing[0]} is not installed: pip install "convswap[onnx]"')
    both = _Both(lived_in(case))
    with _quiet(), torch.no_grad():
        session = _session(both, image(both))
        x = image(both, batch=3)  # another batch size than in the export
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        for name, value, expected in zip(("unit", "fused form"), found, both(x), strict=True):
            demand_close(torch.from_numpy(value), expected, 1e-4, f"the {name}'s output in ONNX Runtime")


def _session(module: nn.Module, x: Tensor) -> Any:
    import onnxruntime

    from ...ops.binary_conv.onnx_translation import onnx_translations

    program = torch.onnx.export(
        module,
        (x,),
        dynamo=True,
        verbose=False,
        optimize=False,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        custom_translation_table=onnx_translations(),
    )
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    written = program.model_proto.SerializeToString()
    return onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks about its own versions, which say nothing about a unit."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
