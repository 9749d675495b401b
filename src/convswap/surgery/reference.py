"""Before a surgery that must keep the function: the model in float64 with its inputs and outputs, to compare with."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..errors import FusionError, first_line, own_frames
from .compare import Outputs, outputs_of, precision_of
from .copying import copy_model
from .inputs import Inputs


def reference_of(model: nn.Module, example: Inputs) -> tuple[nn.Module, list[Inputs], list[Outputs], torch.dtype]:
    """The model to compare with, its inputs and outputs, and their precision: float64 if the model allows it."""
    problem: Exception | None = None
    for dtype in dict.fromkeys((torch.float64, precision_of(model, example))):
        reference = cast_model(copy_model(model, FusionError), dtype)
        inputs = _test_inputs(example, dtype)
        try:
            expected = [outputs_of(reference, inputs[0])]
        except Exception as error:
            problem = error
            continue
        try:
            expected.append(outputs_of(reference, inputs[1]))
        except Exception as error:  # a model may take certain values only
            inputs = inputs[:1]
            _refuse_constant(example, error)
        if not any(expected):
            raise FusionError(
                f"the model's output for the example input {example} holds no tensor elements to compare, so nothing "
                "could be verified; a detector that finds nothing needs another example or a lower score threshold"
            )
        return reference, inputs, expected, dtype
    raise _not_accepted(example, cast(Exception, problem)) from problem


def _refuse_constant(example: Inputs, problem: Exception) -> None:
    if all(tensor.numel() == 0 or tensor.min() == tensor.max() for _, tensor in example.tensors):
        raise FusionError(
            f"the example input is constant, which proves nothing, and the model does not accept noise in its place: "
            f"{first_line(problem)}"
        ) from problem


def cast_model(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast floating-point tensors to this precision, complex ones to the matching type (at least complex64)."""

    def cast_one(t: Tensor) -> Tensor:
        if t.is_complex():
            return t.to(torch.promote_types(dtype, torch.complex64))
        return t.to(dtype) if t.is_floating_point() else t

    return model._apply(cast_one)


def given_outputs(model: nn.Module, example: Inputs) -> Outputs:
    """The outputs of the given model itself: the proof starts from them, not from a copy's."""
    try:
        return outputs_of(model, example.cast(precision_of(model, example)))
    except Exception as error:
        raise _not_accepted(example, error) from error


def _not_accepted(example: Inputs, problem: Exception) -> FusionError:
    said = f"{first_line(problem)}{own_frames(problem)}{example.hint}"
    return FusionError(f"the model does not accept the example input {example}: {said}")


def refuse_train_mode(model: nn.Module) -> None:
    """Raise if any module of the model is in train mode: its outputs would depend on the batch."""
    for path, module in model.named_modules():
        if module.training:
            place = f"{path} is" if path else "the model is"
            raise FusionError(f"{place} in train mode, where outputs depend on the batch; call model.eval() first")


def _test_inputs(example: Inputs, dtype: torch.dtype) -> list[Inputs]:
    """The example, and noise of its shape: an example of zeros alone would prove nothing."""
    own = example.cast(dtype)
    return [own, own.noise()]


def dtypes_of(model: nn.Module) -> dict[str, torch.dtype]:
    """The precision of every floating-point or complex tensor of a model, by name, for `restore_dtypes`."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: t.dtype for name, t in named if t.is_floating_point() or t.is_complex()}


def restore_dtypes(model: nn.Module, dtypes: dict[str, torch.dtype]) -> None:
    """Cast back: an old tensor gets its old dtype, a new one the dtype of its module or of the model."""
    common = next((dtype for dtype in dtypes.values() if dtype.is_floating_point), torch.float32)
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        own = next(
            (dtypes[prefix + n] for n in (*module._parameters, *module._buffers) if prefix + n in dtypes), common
        )
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None and (tensor.is_floating_point() or prefix + name in dtypes):
                    tensor.data = tensor.data.to(dtypes.get(prefix + name, own))
