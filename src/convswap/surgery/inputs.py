"""The forms in which a model's example may be given, as the arguments of one call.

| example | what the model is called with |
|---|---|
| a tensor | `model(tensor)` |
| a tuple | `model(*tuple)`: its elements are the positional arguments |
| a list | `model(list)`: one argument, as torchvision's detectors take their images |
| a dictionary whose keys are arguments of `forward` | `model(**dictionary)` |
| any other dictionary, a named tuple, an object that holds tensors | `model(example)`: one argument |
| a function without arguments | whatever it returns, in one of the forms above |
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError, unknown_name
from .tree import map_tensors, tensors_in

ExampleInput = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any] | Callable[[], Any] | object
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Inputs:
    """The arguments of one call of a model.

    Attributes:
        args: positional arguments.
        kwargs: arguments by keyword.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, example: ExampleInput, model: nn.Module) -> Inputs:
        """Read an example in any of its forms.

        Raises:
            UsageError: there is no tensor in it, or a dictionary fits `forward` only in part.
        """
        if isinstance(example, Inputs):
            return example
        if _makes_one(example):
            example = example()  # type: ignore[operator]
        if type(example) is tuple:
            found = cls(example, {})
        elif isinstance(example, Mapping) and _goes_by_keyword(example, model):
            found = cls((), dict(example))
        else:
            found = cls((example,), {})
        if _makes_one(example) or not found.tensors:
            raise UsageError(
                f"example_input must hold a tensor, got {type(example).__name__}; give a tensor (N, C, H, W), a tuple "
                "of arguments, a list, a dictionary, or a function that returns one of these"
            )
        return found

    @property
    def tensors(self) -> list[tuple[str, Tensor]]:
        """Every tensor and its path: `[0]` for the first positional argument, `name` for one by keyword."""
        named = [pair for name, value in self.kwargs.items() for pair in tensors_in(value, name)]
        return [*tensors_in(self.args), *named]

    @property
    def single(self) -> Tensor | None:
        """The tensor, if it is the only argument."""
        only = self.args[0] if len(self.args) == 1 and not self.kwargs else None
        return only if isinstance(only, Tensor) else None

    @property
    def first(self) -> Tensor:
        """The first tensor, which tells the device."""
        return self.tensors[0][1]

    @property
    def images(self) -> int:
        """The number of examples: the length of a list of images, or the first dimension of the first tensor."""
        leading = next(iter((*self.args, *self.kwargs.values())))
        if isinstance(leading, list) and all(isinstance(each, Tensor) and each.dim() == 3 for each in leading):
            return len(leading)
        return self.first.shape[0] if self.first.dim() else 1

    def map(self, change: Callable[[Tensor], Any]) -> Inputs:
        """The same arguments with every tensor exchanged."""
        return Inputs(map_tensors(self.args, change), map_tensors(self.kwargs, change))

    def cast(self, dtype: torch.dtype) -> Inputs:
        """Without gradients, in this precision. Integers stay as they are, and complex numbers stay complex."""

        def one(tensor: Tensor) -> Tensor:
            if tensor.is_complex():
                return tensor.detach().to(torch.promote_types(dtype, torch.complex64))
            return tensor.detach().to(dtype) if tensor.is_floating_point() else tensor.detach()

        return self.map(one)

    def noise(self) -> Inputs:
        """Normal noise of the same shapes, always the same. Integers stay: they are indices, lengths or masks."""
        generator = torch.Generator().manual_seed(0)

        def one(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)

        return self.map(one)

    def call(self, model: nn.Module) -> Any:
        """What the model returns. The tensors stay as they are, even if the model works in place."""
        own = self.map(torch.clone)
        return model(*own.args, **own.kwargs)

    def __str__(self) -> str:
        if self.single is not None:
            return f"of shape {tuple(self.single.shape)}, {self.single.dtype} on {self.single.device}"
        return "of " + ", ".join(f"{path} {tuple(tensor.shape)}" for path, tensor in self.tensors[:6])

    @property
    def hint(self) -> str:
        """What may help where a model refuses these arguments."""
        only = self.args[0] if len(self.args) == 1 and not self.kwargs else None
        return " (a list is one argument; give a tuple for several)" if isinstance(only, list) else ""


def _makes_one(example: object) -> bool:
    return callable(example) and not isinstance(example, Tensor | nn.Module | Mapping | list | tuple)


def _goes_by_keyword(example: Mapping[Any, Any], model: nn.Module) -> bool:
    """Are the keys arguments of `forward`? All of them must be, or none."""
    if not example or not all(isinstance(key, str) for key in example):
        return False
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in _NAMED]
    missing = [p.name for p in parameters if p.kind in _NAMED and p.default is p.empty and p.name not in example]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    known = [key for key in example if key in names]
    if not known:
        return takes_any and not missing
    where = f"{type(model).__name__}.forward"
    other = " (a dictionary that is one argument is given as a tuple of one, ({...},))"
    for key in example:
        if key not in names and not takes_any:
            raise UsageError(f"example_input: {unknown_name(f'argument of {where}', key, names)}{other}")
    if missing:
        raise UsageError(f"example_input lacks {missing[0]!r}, which {where} needs{other}")
    return True
