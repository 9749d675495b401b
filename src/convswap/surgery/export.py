"""`torch.export` of a model as it stands, for reading only: any form of output, and nothing printed."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import nn

from ..errors import FusionError, first_line
from .frozen import plain_norms
from .inputs import Inputs
from .tree import tensors_in


def export_program(model: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    """The exported program of a model in eval mode. The program returns a tuple of the model's output tensors.

    A frozen batch norm appears as the BatchNorm that it equals.

    Raises:
        FusionError: `torch.export` cannot read the model.
    """
    with plain_norms(model), _returning_tensors(model), quiet_torch():
        try:
            with torch.no_grad():
                return torch.export.export(model, inputs.args, inputs.kwargs, strict=False)
        except Exception as error:
            raise FusionError(f"torch.export cannot read the model: {first_line(error)}") from error


@contextmanager
def _returning_tensors(model: nn.Module) -> Iterator[None]:
    """Let the model return plain tensors: `torch.export` knows no dataclasses and no classes of one's own."""

    def flat(module: nn.Module, args: Any, output: Any) -> Any:
        return tuple(tensor for _, tensor in tensors_in(output))

    handle = model.register_forward_hook(flat)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Within this context nothing reaches the terminal's stderr. A failed export logs and prints whole graphs."""
    loggers = [logging.getLogger(name) for name in [*logging.root.manager.loggerDict] if name.split(".")[0] == "torch"]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
