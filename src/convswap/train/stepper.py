"""One step of the optimizer: its parts of the batch, the gradients' norm, the bounds and the average."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import UsageError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from .average import WeightAverage
    from .recipes import Recipe


class Stepper:
    """Adds up the gradients of a batch's parts, and steps.

    Args:
        fabric: what runs the training.
        model: the network as `fabric.setup` returned it.
        optimizer: the optimizer as `fabric.setup` returned it.
        recipe: names the number of parts and the largest norm of the gradients.
        constrain: puts parameters back into their bounds after a step.
        average: the moving average to update, or None.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: Any,
        optimizer: Any,
        recipe: Recipe,
        *,
        constrain: Callable[[], None],
        average: WeightAverage | None,
    ) -> None:
        self.fabric, self.model, self.optimizer = fabric, model, optimizer
        self.number, self.clip_norm, self.every = recipe.accumulate, recipe.clip_norm, recipe.ema_every
        self.constrain, self.average = constrain, average

    def check(self, batch_size: int) -> None:
        """Refuse a batch that cannot be divided.

        Raises:
            UsageError: the images of one step on one device are no multiple of the parts.
        """
        if batch_size % self.number:
            raise UsageError(
                f"accumulate={self.number} does not divide the {batch_size} images of a step on one device; give a "
                "batch_size (--batch-size) of which it is a divisor there"
            )

    def parts(self, images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The parts of a batch, one after the other. Between processes only the last one exchanges gradients."""
        if self.number == 1:
            yield images, labels
            return
        for index, part in enumerate(zip(images.chunk(self.number), labels.chunk(self.number), strict=True), 1):
            with self.fabric.no_backward_sync(self.model, enabled=index < self.number):
                yield part

    def backward(self, loss: Tensor) -> Tensor:
        """Add the gradients of a part's mean loss to those of the parts before. Returns its share of the batch's."""
        share = loss if self.number == 1 else loss / self.number
        self.fabric.backward(share)
        return share.detach()

    def step(self, number: int) -> None:
        """Step, after the gradients of the whole batch are there.

        Args:
            number: of the step, counted from 1 over the whole training.
        """
        if self.clip_norm is not None:
            # A scaled loss may overflow: the step is then left out, and the scale lowered.
            self.fabric.clip_gradients(self.model, self.optimizer, max_norm=self.clip_norm, error_if_nonfinite=False)
        self.optimizer.step()
        self.constrain()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None and number % self.every == 0:
            self.average.update()
