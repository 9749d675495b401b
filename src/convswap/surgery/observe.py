"""Observing one forward pass: the inputs of each convolution, and the convolutions that are not modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from ..errors import SurgeryError, first_line, own_frames
from .compare import Outputs, named_outputs
from .inputs import ExampleInput, Inputs
from .modes import evaluating
from .sites import Site, is_unit

_CONVOLUTIONS = (nn.modules.conv._ConvNd,)


@dataclass
class Observation:
    """What one forward pass showed.

    Attributes:
        inputs: input shapes of each observed module, one per call, by the module's id.
        outputs: its output shapes, likewise.
        functional: number of convolutions computed outside any convolution module or unit.
        readers: by path, what reads an observed convolution's weight besides its own call.
        result: the tensors of the model's output, by path.
    """

    inputs: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)
    outputs: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)
    functional: int = 0
    readers: dict[str, str] = field(default_factory=dict)
    result: Outputs = field(default_factory=dict)


class ReaderWatch:
    """Records what reads the weights of these sites outside their own calls, by the site's path."""

    def __init__(self, model: nn.Module, watched: Sequence[Site]) -> None:
        self.names = {id(module): path for path, module in model.named_modules()}
        self.weights = {
            id(weight): site for site in watched if isinstance(weight := getattr(site.module, "weight", None), Tensor)
        }
        self.stack: list[nn.Module] = []
        self.found: dict[str, str] = {}

    def enter(self, module: nn.Module) -> None:
        """A module is called."""
        self.stack.append(module)

    def leave(self) -> None:
        """The innermost call ends."""
        self.stack.pop()

    def note(self, func: Any, read: Sequence[Tensor]) -> None:
        """An operator reads these tensors."""
        for tensor in read:
            site = self.weights.get(id(tensor))
            if site is not None and not any(module is site.module for module in self.stack):
                path = self.names.get(id(self.stack[-1]), "") if self.stack else ""
                reader = type(self.stack[-1]).__name__ if self.stack else "the model"
                place = f"{path!r} ({reader})" if path else f"the model ({reader})"
                self.found.setdefault(site.path, f"{place} by {str(func).partition('.')[2].partition('.')[0]}")


class _Watch(TorchDispatchMode):
    def __init__(self, observation: Observation, readers: ReaderWatch) -> None:
        super().__init__()
        self.observation, self.readers = observation, readers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.readers.note(func, [a for a in args if isinstance(a, Tensor)])
        if func is torch.ops.aten.convolution.default and not any(map(_convolves, self.readers.stack)):
            self.observation.functional += 1
        return func(*args, **(kwargs or {}))


def _convolves(module: nn.Module) -> bool:
    return isinstance(module, _CONVOLUTIONS) or is_unit(module)


@contextmanager
def follow_calls(
    model: nn.Module, enter: Callable[[nn.Module, Any], None], leave: Callable[[nn.Module, Any], None]
) -> Iterator[None]:
    """Call `enter(module, arguments)` before and `leave(module, output)` after every call of a module."""
    hooks: list[RemovableHandle] = []
    try:
        for module in model.modules():
            hooks.append(
                module.register_forward_pre_hook(
                    lambda m, args, kwargs: enter(m, [args, kwargs]), prepend=True, with_kwargs=True
                )
            )
            hooks.append(module.register_forward_hook(lambda m, _, output: leave(m, output), always_call=True))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def observe(model: nn.Module, example_input: ExampleInput, watched: Sequence[Site]) -> Observation:
    """Run the model once in eval mode without gradients, and record what its convolutions see.

    Raises:
        SurgeryError: the model does not accept the example input.
    """
    seen = Observation()
    readers = ReaderWatch(model, watched)

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(output, Tensor) and isinstance(given, Tensor):
            seen.inputs.setdefault(id(module), []).append(tuple(given.shape))
            seen.outputs.setdefault(id(module), []).append(tuple(output.shape))

    handles = [site.module.register_forward_hook(note, with_kwargs=True) for site in watched]
    inputs = Inputs.of(example_input, model)
    with follow_calls(model, lambda module, _: readers.enter(module), lambda *_: readers.leave()):
        seen.result = named_outputs(run_watched(model, inputs, _Watch(seen, readers), handles))
    seen.readers = readers.found
    return seen


def run_watched(model: nn.Module, inputs: Inputs, mode: TorchDispatchMode, hooks: Sequence[RemovableHandle]) -> Any:
    """One pass over the example in eval mode, without gradients, under `mode`; the hooks are removed after it.

    Raises:
        SurgeryError: the model does not accept the example input.
    """
    try:
        with evaluating(model), torch.no_grad(), mode:
            return inputs.call(model)
    except Exception as error:
        problem = f"{first_line(error)}{own_frames(error)}{inputs.hint}"
        raise SurgeryError(f"the model does not accept the example input {inputs}: {problem}") from error
    finally:
        for hook in hooks:
            hook.remove()


def example_input_of(model: nn.Module) -> Inputs | None:
    """One random image of the size a timm model declares, on the model's device, or None if it declares none."""
    declared = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    size = declared.get("input_size") if isinstance(declared, dict) else getattr(declared, "input_size", None)
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d) or is_unit(m)), None)
    if size is None or first is None:
        return None
    weight = cast(Tensor, first.weight)
    channels = cast(int, first.in_channels)  # the model may have been built for other channels than it declares
    image = torch.randn(1, channels, *size[1:], generator=torch.Generator().manual_seed(0))
    return Inputs((image.to(device=weight.device, dtype=weight.dtype),), {})
