"""A second network beside the first: its start, its answers, and what the methods with two networks share."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError
from ..contract import Forward, Objective, Outcome, Setting, hard_labels


def second_network(model: nn.Module, name: str, seed: int) -> nn.Module:
    """A copy of the network with other initial weights: each module's `reset_parameters()`, from another seed.

    Raises:
        UsageError: a module has parameters of its own and no `reset_parameters`, or a parameter is frozen.
    """
    fixed = next((path for path, parameter in model.named_parameters() if not parameter.requires_grad), None)
    if fixed is not None:
        raise UsageError(
            f"regularizer {name!r} draws a second network, in which the frozen {fixed} would stay as it was drawn; "
            "freeze nothing"
        )
    second = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed ^ 0x5EC0)
        for path, module in second.named_modules():
            own = next(module.parameters(recurse=False), None)
            if own is None:
                continue
            reset = getattr(module, "reset_parameters", None)
            if reset is None:
                raise UsageError(
                    f"regularizer {name!r} draws a second network, and {path or 'the model'} "
                    f"({type(module).__name__}) has parameters but no reset_parameters(); give it one"
                )
            reset()
    return second


def relative_entropy(of: Tensor, to: Tensor) -> Tensor:
    """KL(p || q), one value an image, with p the softmax of the logits `of` and q that of `to`, both (N, classes)."""
    return F.kl_div(F.log_softmax(to, 1), F.log_softmax(of, 1), reduction="none", log_target=True).sum(1)


class Twins(Objective):
    """The base of objectives with a second network, which is trained by the same optimizer and then dropped."""

    def __init__(self, inner: Objective, model: nn.Module, name: str, setting: Setting) -> None:
        self.inner = inner
        self.companion = second_network(model, name, setting.seed).train()
        self.second = setting.wrap(self.companion)

    def loss(self, logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """The recipe's loss."""
        return self.inner.loss(logits, targets, reduction)

    def progress(self, done: float) -> None:
        """For a smoothing that changes."""
        self.inner.progress(done)

    def step(self, forward: Forward, images: Tensor, targets: Tensor) -> Outcome:
        """Both networks see the same batch. The accuracy is that of the first."""
        first, second = forward(images), self.second(images)
        return Outcome(self.joint_loss(first, second, targets), first, hard_labels(targets))

    def joint_loss(self, first: Tensor, second: Tensor, targets: Tensor) -> Tensor:
        """The loss of both answers (N, classes)."""
        raise NotImplementedError
