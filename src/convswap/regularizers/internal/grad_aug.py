"""GradAug: narrow sub-networks on resized images learn from the whole network (Yang et al., arXiv:2006.07989)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError, check_number, check_whole, first_line
from ...surgery.modes import evaluating
from ..contract import Forward, Objective, Outcome, Regularizer, Setting
from ..registry import register_regularizer
from .places import Places
from .width_slices import Widths


def distillation(logits: Tensor, taught: Tensor) -> Tensor:
    """KL(softmax(logits) || softmax(taught)), the mean over images, in float32. No gradient goes to `logits`."""
    target = logits.detach().float().softmax(1)
    return F.kl_div(taught.float().log_softmax(1), target, reduction="batchmean")


def resized(images: Tensor, share: float) -> Tensor:
    """The images at a share of their height and width, bilinear with the corners kept."""
    size = [max(1, round(side * share)) for side in images.shape[2:]]
    return images if share == 1 else F.interpolate(images, size, mode="bilinear", align_corners=True)


class _GradAugObjective(Objective):
    def __init__(self, inner: Objective, method: GradAug, model: nn.Module, setting: Setting) -> None:
        self.inner, self.method = inner, method
        self.precision = next(model.parameters()).dtype
        places = Places(model, setting, method.name)
        self._check_sizes(places)
        self.widths = Widths(places)

    def _check_sizes(self, places: Places) -> None:
        """Refuse a size that the network cannot take."""
        image = places.inputs.first
        for share in self.method.sizes:
            small = resized(image, share)
            try:
                with evaluating(places.model), torch.no_grad():
                    places.model(small)
            except Exception as error:
                raise places.refuse(
                    f"takes no images of {small.shape[2]}x{small.shape[3]} (sizes={share}): {first_line(error)}",
                    "give larger sizes=",
                ) from error

    def step(self, forward: Forward, images: Tensor, targets: Tensor) -> Outcome:
        """The loss of the whole network, and for each sub-network the distance from what the whole one says."""
        outcome = self.inner.step(forward, images, targets)
        loss, least = outcome.loss, self.method.narrowest
        drawn = torch.rand(self.method.subnetworks - 1, dtype=torch.float64) * (1 - least) + least
        sizes = torch.randint(len(self.method.sizes), (self.method.subnetworks,))
        # The images come in the precision of the training: rounded to it where autocast computes.
        mixed = images.dtype != self.precision
        for width, size in zip([least, *drawn.tolist()], sizes.tolist(), strict=True):
            with torch.autocast(images.device.type, dtype=images.dtype if mixed else None, enabled=mixed):
                taught = self.widths.at(width)(resized(images, self.method.sizes[size]))
            loss = loss + distillation(outcome.logits, taught)
        return outcome._replace(loss=loss)

    def loss(self, logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """The recipe's loss."""
        return self.inner.loss(logits, targets, reduction)

    def begin_epoch(self, epoch: int) -> None:
        """Tell the inner objective."""
        self.inner.begin_epoch(epoch)

    def progress(self, done: float) -> None:
        """Tell the inner objective."""
        self.inner.progress(done)

    def detach(self) -> None:
        """Nothing of it is in the network."""
        self.inner.detach()


@register_regularizer
@dataclass(frozen=True)
class GradAug(Regularizer):
    """loss + sum over sub-networks of KL(network || sub-network), all gradients in one step.

    Sub-networks are the first channels of every layer: the narrowest, and others of a width drawn uniformly between it
    and the whole. Each reads the images at a size drawn from `sizes`, and normalises by its own batch. They share their
    parameters with the network, whose running statistics they leave alone. torch-pruning finds the channels that belong
    together, so the package is needed. Units whose channels cannot be left out one by one are refused by name.
    Evaluation is the identity.

    Attributes:
        narrowest: the smallest width, a share of the channels; 0.8 for CIFAR and 0.9 for ImageNet in the paper.
        subnetworks: in each step.
        sizes: shares of the image's side: 32, 28 and 24 pixels of 32 in the paper.
    """

    name, family, place = "grad_aug", "internal", "step"
    paper = "Yang et al., arXiv:2006.07989, 2020"
    summary = "narrow sub-networks on resized images learn from the whole network"
    cost = "a forward and backward pass for each sub-network"

    narrowest: float = 0.8
    subnetworks: int = 3
    sizes: tuple[float, ...] = (1.0, 0.875, 0.75)

    def check(self) -> None:
        """Refuse widths and sizes outside 0 ... 1, and fewer than one sub-network."""
        check_number("narrowest", self.narrowest, lambda v: 0 < v < 1, "a width above 0 and below 1")
        check_whole("subnetworks", self.subnetworks)
        if not isinstance(self.sizes, list | tuple) or not self.sizes:
            raise UsageError(f"sizes={self.sizes!r} is not allowed; give shares such as (1.0, 0.75)")
        for size in self.sizes:
            check_number("sizes", size, lambda v: 0 < v <= 1, "shares above 0 and up to 1")
        object.__setattr__(self, "sizes", tuple(self.sizes))  # JSON has lists only

    def objective(self, inner: Objective, model: nn.Module, setting: Setting) -> Objective:
        """Add the sub-networks."""
        return _GradAugObjective(inner, self, model, setting)
