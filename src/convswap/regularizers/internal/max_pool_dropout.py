"""Max-pooling dropout: a pooling takes the maximum of what is left of its window (Wu and Gu, 2015)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import check_choice
from ...surgery.history import append_history
from ...surgery.pooling.probabilistic import (
    geometry_of,
    perform_probabilistic,
    probabilistic_max_pool,
    probabilistic_record,
)
from ..contract import Attachment, Regularizer, Setting
from ..registry import register_regularizer
from .attaching import Lasting, MethodHook
from .checks import check_rate
from .places import Places


def dropped_max_pool(x: Tensor, pool: nn.MaxPool2d, rate: float) -> Tensor:
    """The maximum of the values that stay, each with probability 1 - rate, and 0 where none stays."""
    # torch.where keeps the memory format, masked_fill does not
    none = torch.full_like(x, -torch.inf)
    y = F.max_pool2d(torch.where(torch.rand_like(x, dtype=torch.float32) < rate, none, x), **geometry_of(pool))
    return torch.where(y == -torch.inf, torch.zeros_like(y), y)


class DropInWindow(MethodHook):
    """A forward hook of a max-pooling that pools its input anew.

    Attributes:
        owner: the module whose mode decides between training and evaluation.
    """

    def __init__(self, owner: nn.Module, rate: float, evaluation: str) -> None:
        self.owner, self.rate, self.evaluation = owner, rate, evaluation

    def __call__(self, pool: nn.MaxPool2d, arguments: tuple[Tensor], output: Tensor) -> Tensor:
        """The pooled map."""
        if self.owner.training:
            return dropped_max_pool(arguments[0], pool, self.rate)
        if self.evaluation == "max":
            return output
        return probabilistic_max_pool(arguments[0], pool, self.rate)


class _Pooling(Lasting):
    def __init__(self, model: nn.Module, method: MaxPoolDropout) -> None:
        super().__init__()
        self.model, self.method = model, method

    def settle(self) -> None:
        """Exchange the poolings for what evaluation computed."""
        if self.method.evaluation == "probabilistic":
            record = probabilistic_record(self.places, self.method.rate)
            perform_probabilistic(self.model, record)
            append_history(self.model, record)


@register_regularizer
@dataclass(frozen=True)
class MaxPoolDropout(Regularizer):
    """Each value of the map is dropped with probability `rate` before an `nn.MaxPool2d`.

    So the j-th largest value of a window is taken with probability (1 - rate) rate^(j-1), and 0 if all are dropped. The
    paper evaluates by the expectation of that. When the training ends, a `ProbabilisticMaxPool2d` stands in the place
    of each pooling, which computes it; saved models keep it. With `evaluation="max"` the poolings stay as they were,
    while training and after it.

    Attributes:
        rate: the probability to drop.
        evaluation: `"probabilistic"` or `"max"`.
    """

    name, family, place = "max_pool_dropout", "internal", "network"
    paper = "Wu and Gu, Neural Networks 71, 2015"
    summary = "values before each max-pooling"
    cost = "a second pooling; windows are sorted in evaluation"

    rate: float = 0.5
    evaluation: str = "probabilistic"

    def check(self) -> None:
        """Refuse a rate outside 0 ... 1 and an unknown evaluation."""
        check_rate("rate", self.rate)
        check_choice("evaluation", self.evaluation, ("probabilistic", "max"))

    def attach(self, model: nn.Module, setting: Setting) -> Attachment:
        """Hook the poolings."""
        places, attached = Places(model, setting, self.name), _Pooling(model, self)
        for call in places.tape.calls:
            pool = call.module
            if (
                type(pool) is nn.MaxPool2d
                and not pool.return_indices
                and call.path
                and call.path not in attached.places
            ):
                hook = DropInWindow(places.owner(call.path), self.rate, self.evaluation)
                attached.handles.append(pool.register_forward_hook(hook))
                attached.places.append(call.path)
        if not attached.places:
            raise places.refuse("calls no nn.MaxPool2d", "dropout or spatial_dropout need none")
        return attached
