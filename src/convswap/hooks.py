"""The hooks: everything that a module may declare about itself to surgery, training and the measurements.

A unit inherits the hooks from its base. Any other module (a fused form, a network that clips its weights) inherits
`Hooks` before `nn.Module`. Each hook has a default that says "nothing special". A class overrides the hooks it needs. A
method with the name of a hook is not called on a module that does not inherit `Hooks`.

| hook | asked by | what it says |
|---|---|---|
| `absorbs_batch_norm` | `swap` | the host's BatchNorm behind the unit is removed |
| `start_from_batch_norm(norm)` | `swap`, warm start | take over what that BatchNorm has learned |
| `absorbs_relu_before` | `swap` | the unit rectifies its own input: a ReLU before it is removed |
| `relu_follows_host` | `swap` | the option `relu` is set to whether a ReLU follows in the host |
| `normalizes_input(**options)` | `swap` | the unit takes signs of its input; does a BatchNorm of its own come first? |
| `options_at(place)` | `swap`, for a `BlockUnit` (and written there) | options that follow from the place |
| `warm_start_for(conv, **options)` | `swap`, plans | how much of this particular convolution a warm start keeps |
| `fold_affine(scale, shift)` | `fuse` | absorb the BatchNorm behind the module |
| `narrow(inputs, outputs)` | `plan_prune` | keep only these input and output channels |
| `narrows_by_parts` | `plan_prune` | its stock layers can be narrowed one by one, as any network's |
| `constrain_()` | `fit`, `constrain` | put the parameters back into bounds after each step |
| `learning_rate_scale()` | `fit`, `parameter_groups` | factors of the learning rate by parameter name |
| `keeps_results` | `cost` | inference is cheaper after the first pass: results are kept |
| `filters(size)` | `see`, `niff_kernel_mass` | the module's filters that are as large as the map |

`writes(module, Hooks.fold_affine)` tells whether a module's class overrides a method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn


class Hooks:
    """Mixin, before `nn.Module`: the hooks and their defaults; see the table above.

    Attributes:
        absorbs_batch_norm: a swap removes the host's BatchNorm if it is the only consumer of the unit's output.
        absorbs_relu_before: the unit rectifies its own input. A swap removes a ReLU module that feeds only such
            units. On an input that comes from a ReLU, a warm start is exact.
        relu_follows_host: a swap sets the unit's option `relu` to whether a ReLU follows in the host.
        narrows_by_parts: the module is stock layers and what joins them, so pruning may treat each layer by itself.
        keeps_results: the module keeps results of one inference for the next, so the second pass costs less.
    """

    absorbs_batch_norm: ClassVar[bool] = False
    absorbs_relu_before: ClassVar[bool] = False
    relu_follows_host: ClassVar[bool] = False
    narrows_by_parts: ClassVar[bool] = False
    keeps_results: ClassVar[bool] = False

    def start_from_batch_norm(self, norm: nn.Module) -> None:
        """On a warm start: take over the BatchNorm that this unit replaces (`absorbs_batch_norm`). Default: nothing."""

    @classmethod
    def normalizes_input(cls, **options: Any) -> bool | None:
        """For a unit that takes signs of its input: is the input normalised first? None: the unit takes no signs."""
        return None

    @classmethod
    def warm_start_for(cls, conv: nn.Conv2d, **options: Any) -> Literal["exact", "approximate", "none"] | None:
        """How much `from_conv` keeps of this convolution. None: as the registry row says. Override if it varies."""
        return None

    def fold_affine(self, scale: Tensor, shift: Tensor) -> None:
        """Absorb a following per-channel `y -> scale y + shift`, both (out,), in place. Default: not possible."""
        raise NotImplementedError(f"{type(self).__name__} cannot absorb a scale and a shift behind it")

    def narrow(self, inputs: Sequence[int] | None, outputs: Sequence[int] | None) -> None:
        """Keep only these input and output channels, in place (None: all). Default: not possible.

        The module has `in_channels` and `out_channels`. Removing some of one side must not touch the other.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be narrowed")

    def constrain_(self) -> None:
        """Put the parameters back into their allowed set, in place. Default: nothing.

        Training calls this under `no_grad`, once before the first step and once after every step. (Two calls can differ
        from one where weights are centred and then clipped, as in `binary_weight`.)
        """

    def learning_rate_scale(self) -> Mapping[str, float]:
        """Factors of the learning rate by parameter name, relative to the module. Default: none."""
        return {}

    def filters(self, size: tuple[int, int], dtype: torch.dtype = torch.float64) -> Tensor | None:
        """The filters (K, *size), in space, by which the module multiplies a map of this size in the frequency domain.

        Their centre is pixel (0, 0), and they wrap around. None: the module has no such filters.
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
