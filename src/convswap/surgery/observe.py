"""One forward pass, observed: what each convolution was given, and which convolutions are no modules at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from ..errors import SurgeryError, UsageError
from .modes import evaluating
from .sites import Site, is_unit

_CONVOLUTIONS = (nn.modules.conv._ConvNd,)


@dataclass
class Observation:
    """What one forward pass showed.

    Attributes:
        inputs: input shapes of each observed module, one a call, by the module's id.
        outputs: output shapes likewise.
        functional: convolutions computed outside of any convolution module or unit.
    """

    inputs: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)
    outputs: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)
    functional: int = 0


class _CountFunctional(TorchDispatchMode):
    def __init__(self, observation: Observation) -> None:
        super().__init__()
        self.observation = observation
        self.inside = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default and self.inside == 0:
            self.observation.functional += 1
        return func(*args, **(kwargs or {}))


def observe(model: nn.Module, example_input: Tensor, watched: list[Site]) -> Observation:
    """Run the model once in eval mode without gradients and note what its convolutions see.

    Raises:
        SurgeryError: the model does not accept the example input.
    """
    seen = Observation()
    counter = _CountFunctional(seen)
    handles = []

    def enter(module: nn.Module, args: Any) -> None:
        counter.inside += 1

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        counter.inside -= 1

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and args and isinstance(args[0], Tensor):
            seen.inputs.setdefault(id(module), []).append(tuple(args[0].shape))
            seen.outputs.setdefault(id(module), []).append(tuple(output.shape))

    for module in model.modules():
        if isinstance(module, _CONVOLUTIONS) or is_unit(module):
            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    handles += [site.module.register_forward_hook(note) for site in watched]
    run_watched(model, example_input, counter, handles)
    return seen


def run_watched(
    model: nn.Module, example_input: Tensor, mode: TorchDispatchMode, hooks: Sequence[RemovableHandle]
) -> None:
    """One pass over the example in eval mode, without gradients, under `mode`; the hooks are removed after it.

    Raises:
        SurgeryError: the model does not accept the example input.
    """
    try:
        with evaluating(model), torch.no_grad(), mode:
            model(example_input.clone())  # it may work in place
    except Exception as error:
        shape = tuple(example_input.shape)
        message = str(error).strip() or type(error).__name__
        raise SurgeryError(f"the model does not accept the example input of shape {shape}: {message}") from error
    finally:
        for hook in hooks:
            hook.remove()


def check_example(example_input: object) -> None:
    """Raise a `UsageError` for an example that is no tensor: surgery runs models of one image batch."""
    if example_input is not None and not isinstance(example_input, Tensor):
        raise UsageError(f"example_input must be one tensor (N, C, H, W), got {type(example_input).__name__}")


def example_input_of(model: nn.Module) -> Tensor | None:
    """One random image of the size a timm model declares, on the model's device, or None if it declares none."""
    declared = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    size = declared.get("input_size") if isinstance(declared, dict) else getattr(declared, "input_size", None)
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d) or is_unit(m)), None)
    if size is None or first is None:
        return None
    weight = cast(Tensor, first.weight)
    channels = cast(int, first.in_channels)  # the model may have been built for others than it declares
    image = torch.randn(1, channels, *size[1:], generator=torch.Generator().manual_seed(0))
    return image.to(device=weight.device, dtype=weight.dtype)
