"""A host's own folding (`fuse()`, `reparameterize()`, `switch_to_deploy()`) while units stand in it.

Such a method reads the weights of convolutions and writes other ones. A unit's weight means another function, and the
method cannot know. So a swap puts a guard in front of the methods of every module around a unit.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from ..errors import SurgeryError
from ..marks import writes_mark
from ..units.contract.registry import spec_of
from .steps import BLOCK_HOOKS


class GuardedFold:
    """Stands for a method of a module that folds. It is called as long as no unit is inside the module.

    Raises:
        SurgeryError: a unit is inside.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module, self.name = module, name

    @property
    def __signature__(self) -> inspect.Signature:
        own = inspect.signature(getattr(type(self.module), self.name))
        return own.replace(parameters=list(own.parameters.values())[1:])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module's own method."""
        for path, inner in self.module.named_modules():
            spec = spec_of(inner)
            if spec is not None and writes_mark(inner):
                raise SurgeryError(
                    f"{type(self.module).__name__}.{self.name}() folds weights of convolutions, but {path} is a "
                    f"{spec.name} unit; call convswap.fuse(model, example_input) in its place"
                )
        return getattr(type(self.module), self.name)(self.module, *args, **kwargs)


def guard_folds(model: nn.Module, path: str) -> None:
    """Guard the folding methods of the modules around a path. A method that stands on the object itself is left."""
    parts = path.split(".") if path else []
    for length in range(len(parts)):
        module = model.get_submodule(".".join(parts[:length]))
        for name in BLOCK_HOOKS:
            if name not in module.__dict__ and inspect.isfunction(getattr(type(module), name, None)):
                module.__dict__[name] = GuardedFold(module, name)
