"""How a method sits in a network: forward hooks on modules that stay as they are, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..contract import Attachment


class MethodHook:
    """Every hook by which a method sits in a network."""


class Change(MethodHook):
    """A forward hook that changes what a module returns.

    Training or evaluation is decided by `owner`, a module around the one that carries the hook. A batch norm whose
    statistics are frozen is itself in evaluation mode while the network trains.

    Attributes:
        owner: the module whose mode decides.
    """

    def __init__(self, owner: nn.Module) -> None:
        self.owner = owner

    def train(self, x: Tensor) -> Tensor:
        """What training makes of a value."""
        raise NotImplementedError

    def evaluate(self, x: Tensor) -> Tensor:
        """What evaluation makes of it: by default the value itself."""
        return x

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        """Change the output."""
        return self.train(output) if self.owner.training else self.evaluate(output)


class ChangeInput(MethodHook):
    """A forward hook, to be called before a module, that gives the module a changed first argument."""

    def __init__(self, change: Change) -> None:
        self.change = change

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Change the first argument."""
        change, (first, *others) = self.change, arguments
        changed = change.train(first) if change.owner.training else change.evaluate(first)
        return (changed, *others)


class Hooked(Attachment):
    """An attachment of hooks. `detach` removes them, which leaves every module as it was.

    Attributes:
        handles: of the hooks.
        places: the paths of the modules that carry them, for messages.
    """

    def __init__(self) -> None:
        self.handles: list[RemovableHandle] = []
        self.places: list[str] = []

    def after(self, path: str, module: nn.Module, change: Change, *, first: bool = False) -> None:
        """Change what a module returns, with `first` before any other hook of the module sees it."""
        self.handles.append(module.register_forward_hook(change, prepend=first))
        self.places.append(path)

    def before(self, path: str, module: nn.Module, change: Change) -> None:
        """Change what a module reads, before any other hook of the module sees it."""
        self.handles.append(module.register_forward_pre_hook(ChangeInput(change), prepend=True))
        self.places.append(path)

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self.handles:
            handle.remove()
        self.handles = []


class Started(nn.Module):
    """Whether a training has begun: part of checkpoints, so that a resumed training knows."""

    started: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("started", torch.tensor(False))


class Lasting(Hooked):
    """An attachment whose evaluation differs from the network's own.

    `detach` leaves in the network what evaluation did, so that the network computes the same without the method. If no
    training has begun, it only removes the hooks.
    """

    companion: Started

    def __init__(self) -> None:
        super().__init__()
        self.companion = Started()

    def progress(self, done: float) -> None:
        """Note that the training has begun."""
        self.companion.started.fill_(True)

    def settle(self) -> None:
        """Put into the network what evaluation did."""
        raise NotImplementedError

    def detach(self) -> None:
        """Settle, and remove the hooks."""
        if self.handles and bool(self.companion.started):
            self.settle()
        super().detach()


def without_methods(model: nn.Module) -> nn.Module:
    """Remove the hooks of all methods from a copy of a network, in place. Other hooks stay."""
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, MethodHook)]:
                del hooks[key]
    return model


def linear_rates(last: float, count: int) -> Sequence[float]:
    """Rates that rise linearly with depth, `last * l / count` for l = 1 ... count.

    >>> linear_rates(0.5, 2)
    [0.25, 0.5]
    """
    return [last * depth / count for depth in range(1, count + 1)]
