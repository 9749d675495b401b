"""The hooks: all that a unit, or another module, may tell surgery, training and the measurements about itself.

A unit has them from its base; any other module (a fused form, a network that clips its weights) inherits `Hooks` before
`nn.Module`. Each hook has a default that says "nothing special", and a class overrides the ones it needs. A method of
such a name on a module that is no `Hooks` is not called.

| hook | asked by | what it says |
|---|---|---|
| `absorbs_batch_norm` | `swap` | the host's BatchNorm behind the unit goes |
| `start_from_batch_norm(norm)` | `swap`, warm start | take over what that BatchNorm had learned |
| `absorbs_relu_before` | `swap` | the unit rectifies its own input: a ReLU before it goes |
| `relu_follows_host` | `swap` | the option `relu` is set to whether a ReLU follows in the host |
| `normalizes_input(**options)` | `swap` | the unit takes signs of its input; does a BatchNorm of its own come first? |
| `options_at(place)` | `swap`, for a `BlockUnit` (and written there) | options that follow from the place |
| `warm_start_for(conv, **options)` | `swap`, plans | what a warm start keeps of this very convolution |
| `fold_affine(scale, shift)` | `fuse` | absorb the BatchNorm behind the module |
| `constrain_()` | `fit`, `constrain` | put the parameters back into bounds after each step |
| `learning_rate_scale()` | `fit`, `parameter_groups` | factors of the learning rate by parameter name |
| `keeps_results` | `cost` | an inference is cheaper after the first: results are kept |
| `filters(size)` | `see`, `niff_kernel_mass` | the filters as large as the map that the module multiplies with |

`writes(module, Hooks.fold_affine)` tells whether a module's class overrides a method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn


class Hooks:
    """Mixin, before `nn.Module`: the hooks and their defaults; see the table above.

    Attributes:
        absorbs_batch_norm: the host's BatchNorm that alone reads the unit's output is taken out by a swap.
        absorbs_relu_before: the unit rectifies its own input. A swap takes out a ReLU module that feeds only such
            units; on an input that comes from a ReLU, a warm start is exact.
        relu_follows_host: a swap sets the unit's option `relu` to whether a ReLU follows in the host.
        keeps_results: the module keeps results of an inference for the next one, so the second pass costs less.
    """

    absorbs_batch_norm: ClassVar[bool] = False
    absorbs_relu_before: ClassVar[bool] = False
    relu_follows_host: ClassVar[bool] = False
    keeps_results: ClassVar[bool] = False

    def start_from_batch_norm(self, norm: nn.Module) -> None:
        """On a warm start: take over the BatchNorm that this unit replaces (`absorbs_batch_norm`). Default: nothing."""

    @classmethod
    def normalizes_input(cls, **options: Any) -> bool | None:
        """For a unit that takes signs of its input: does it normalise the input first? None: it takes no signs."""
        return None

    @classmethod
    def warm_start_for(cls, conv: nn.Conv2d, **options: Any) -> Literal["exact", "approximate", "none"] | None:
        """What `from_conv` keeps of this convolution. None: what the registry row declares. Override if it varies."""
        return None

    def fold_affine(self, scale: Tensor, shift: Tensor) -> None:
        """Absorb a following per-channel `y -> scale y + shift`, both (out,), in place. Default: it cannot."""
        raise NotImplementedError(f"{type(self).__name__} cannot absorb a scale and a shift behind it")

    def constrain_(self) -> None:
        """Put the parameters into the set they are meant to lie in, in place. Default: nothing.

        Training calls it under `no_grad`, once before the first step and once after every step. (Twice is not the same
        as once where weights are centred and then clipped, as in `binary_weight`.)
        """

    def learning_rate_scale(self) -> Mapping[str, float]:
        """Factors of the learning rate by parameter name, relative to the module. Default: none."""
        return {}

    def filters(self, size: tuple[int, int], dtype: torch.dtype = torch.float64) -> Tensor | None:
        """The filters (K, *size) that the module multiplies a map of this size with in the frequency domain, in space.

        Their centre is pixel (0, 0) and they wrap around. None: the module has no such filters.
        """
        return None


def writes(module: object, hook: Callable[..., Any]) -> bool:
    """Does the module's class override this method of `Hooks`?

    >>> class Clipped(Hooks, nn.Linear):
    ...     def constrain_(self):
    ...         self.weight.clamp_(-1, 1)
    >>> writes(Clipped(2, 2), Hooks.constrain_), writes(Clipped(2, 2), Hooks.fold_affine), writes(1, Hooks.fold_affine)
    (True, False, False)
    """
    return isinstance(module, Hooks) and getattr(type(module), hook.__name__) is not hook
